"""The op in PyTorch's own operators."""

import pytest
import torch

from mmsifa.ops import exportable, inter_frame_attention
from mmsifa.ops.arguments import AttentionOptions


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ('shape', 'options'),
    [
        ((2, 2, 6, 5, 7), dict(num_heads=2)),
        ((1, 1, 4, 1, 1), dict(softmax=True)),
        ((2, 1, 4, 6, 3), dict(kernel_size=5, dilation=2, num_heads=2, softmax=True, scale=0.3)),
    ],
    ids=['two-heads', 'one-pixel', 'wide-window'],
)
def test_is_the_op(shape, options, dtype):
    n, t, c, h, w = shape
    options = dict(kernel_size=3, dilation=1, num_heads=1, softmax=False) | options
    options.setdefault('scale', options['num_heads'] / c)
    query, value = torch.randn(2, *shape, dtype=dtype)
    offset = 3 * torch.randn(n, t, 2 * options['kernel_size'] ** 2, h, w)
    offset = offset if dtype == torch.bfloat16 else offset.to(dtype)
    flat = offset.view(-1)
    flat[::11], flat[1::13], flat[2::17], flat[3::19] = torch.nan, torch.inf, -torch.inf, 1e30
    expected = inter_frame_attention(query, value, offset, **options)
    out = exportable.inter_frame_attention(query, value, offset, AttentionOptions(**options))
    assert out.dtype == dtype
    rtol, atol = {
        torch.float32: (0, 1e-5),
        torch.float64: (0, 1e-12),
        torch.bfloat16: (torch.finfo(dtype).eps, 1e-5),  # one rounding of nearly the same number
    }[dtype]
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
