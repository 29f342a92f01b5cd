"""The op against an independent definition, by-hand cases and its contract."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

from mmsifa.ops import BACKENDS, exportable, inter_frame_attention, reference
from mmsifa.ops.arguments import (
    AttentionOptions,
    check_integer_lists,
    check_integers,
    check_out_indices,
)
from mmsifa.ops.backends import Backend

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SHAPES = {
    'plain': (2, 3, 4, 5, 5),
    'wide': (1, 2, 4, 3, 7),
    'one-pixel': (1, 2, 4, 1, 1),
    'one-frame': (1, 1, 4, 4, 3),
    'odd-channels': (2, 2, 3, 4, 5),
}


def inputs(shape, kernel_size=3, spread=1.5, dtype=torch.float64, seed=0):
    """Random query, value and offset; about a third of the samples leave the frame."""
    generator = torch.Generator().manual_seed(seed)
    n, t, c, h, w = shape
    query, value = torch.randn(2, n, t, c, h, w, generator=generator, dtype=dtype)
    offset = torch.randn(n, t, 2 * kernel_size**2, h, w, generator=generator, dtype=dtype)
    return query, value, offset * spread


def definition(query, value, offset, *, kernel_size=3, dilation=1, num_heads=1, scale=None,
               softmax=False):  # fmt: skip
    """The op written with loops over every single number, from the equations."""
    n, t, c, h, w = query.shape
    per_head = c // num_heads
    scale = 1 / per_head if scale is None else scale
    out = torch.zeros_like(query)

    def pixel(b, f, ch, y, x):
        return value[b, f, ch, y, x].item() if 0 <= y < h and 0 <= x < w else 0.0

    def sample(b, f, ch, y, x):
        if not (-1 < y < h and -1 < x < w):
            return 0.0
        y0, x0 = math.floor(y), math.floor(x)
        return sum(
            (1 - abs(y - yy)) * (1 - abs(x - xx)) * pixel(b, f, ch, yy, xx)
            for yy, xx in itertools.product((y0, y0 + 1), (x0, x0 + 1))
        )

    for b, f, y, x in itertools.product(range(n), range(t), range(h), range(w)):
        for g in range(num_heads):
            channels = range(g * per_head, (g + 1) * per_head)
            taps = []
            for k, (ky, kx) in enumerate(itertools.product(range(kernel_size), repeat=2)):
                py = y + dilation * (ky - (kernel_size - 1) / 2) + offset[b, f, 2 * k, y, x].item()
                px = (
                    x
                    + dilation * (kx - (kernel_size - 1) / 2)
                    + offset[b, f, 2 * k + 1, y, x].item()
                )
                taps.append([sample(b, f, ch, py, px) for ch in channels])
            weights = [
                scale * sum(query[b, f, channels[i], y, x].item() * s for i, s in enumerate(tap))
                for tap in taps
            ]
            if softmax:
                top = max(weights)
                total = sum(math.exp(weight - top) for weight in weights)
                weights = [math.exp(weight - top) / total for weight in weights]
            for i, ch in enumerate(channels):
                out[b, f, ch, y, x] = sum(w * tap[i] for w, tap in zip(weights, taps, strict=True))
    return out


IN_FLOAT64 = [
    name
    for name, backend in BACKENDS.items()
    if backend.unsupported_reason(torch.ones(1, 1, 1, 1, 1).double()) is None
]


@pytest.fixture(params=IN_FLOAT64)
def attention(request):
    """The op on every backend that computes in float64 here."""
    return partial(inter_frame_attention, backend=request.param)


@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_equals_the_definition_for_every_shape(attention, shape, softmax):
    args = inputs(shape)
    out = attention(*args, softmax=softmax)
    torch.testing.assert_close(out, definition(*args, softmax=softmax), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=1),
        dict(kernel_size=5),
        dict(dilation=2),
        dict(num_heads=2),
        dict(num_heads=4, softmax=True),
        dict(scale=0.3),
        dict(kernel_size=5, dilation=2, num_heads=2, scale=2.0, softmax=True),
    ],
    ids=str,
)
def test_equals_the_definition_for_every_option(attention, options):
    args = inputs((1, 2, 4, 6, 5), options.get('kernel_size', 3))
    out = attention(*args, **options)
    torch.testing.assert_close(out, definition(*args, **options), rtol=1e-12, atol=1e-12)


def test_one_tap_by_hand(attention):
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 1, 2, 2)
    query = torch.full((1, 1, 1, 2, 2), 10.0)
    offset = torch.zeros(1, 1, 2, 2, 2)
    offset[0, 0, :, 0, 0] = torch.tensor([0.5, 0.25])  # down by a half, right by a quarter
    out = attention(query, value, offset, kernel_size=1)
    sample = 0.5 * (0.75 * 1 + 0.25 * 2) + 0.5 * (0.75 * 3 + 0.25 * 4)
    assert out[0, 0, 0, 0, 0].item() == pytest.approx(10 * sample * sample)
    assert out[0, 0, 0, 1, 1].item() == pytest.approx(10 * 4 * 4)


def test_tap_order_and_channel_order_of_offsets(attention):
    value = torch.arange(25.0).view(1, 1, 1, 5, 5)
    query = torch.ones_like(value)
    for k in range(9):
        ky, kx = divmod(k, 3)
        offset = torch.full((1, 1, 18, 5, 5), 1e6)  # every tap but k looks far outside
        offset[:, :, 2 * k : 2 * k + 2] = 0
        out = attention(query, value, offset, scale=1.0)
        assert out[0, 0, 0, 2, 2].item() == value[0, 0, 0, 1 + ky, 1 + kx].item() ** 2
    offset = torch.full((1, 1, 18, 5, 5), 1e6)
    offset[:, :, 8], offset[:, :, 9] = -1, 2  # the middle tap: one up, two to the right
    out = attention(query, value, offset, scale=1.0)
    assert out[0, 0, 0, 2, 2].item() == value[0, 0, 0, 1, 4].item() ** 2


@pytest.mark.parametrize(
    ('position', 'weight'),
    [(-1.0, 0.0), (-0.75, 0.25), (-0.25, 0.75), (2.25, 0.75), (2.75, 0.25), (3.0, 0.0)],
)
def test_samples_fade_out_within_one_pixel_of_the_border(attention, position, weight):
    value = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    offset = torch.zeros(1, 1, 2, 3, 3, dtype=torch.float64)
    offset[0, 0, 0, 1, 1] = position - 1
    out = attention(value, value, offset, kernel_size=1)
    assert out[0, 0, 0, 1, 1].item() == pytest.approx(weight**2)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
def test_bad_offsets_count_as_outside_with_zero_gradient(attention, bad, softmax):
    query, value, offset = inputs((1, 2, 3, 4, 4), dtype=torch.float32)
    far = offset.clone()
    offset[0, 0, 4], far[0, 0, 4] = bad, 100
    query.requires_grad_(), value.requires_grad_(), offset.requires_grad_()
    out = attention(query, value, offset, softmax=softmax)
    torch.testing.assert_close(out, attention(query, value, far, softmax=softmax))
    out.square().sum().backward()
    for tensor in (query, value, offset):
        assert tensor.grad.isfinite().all()
    assert (offset.grad[0, 0, 4:6] == 0).all()  # neither of the tap's two coordinates
    assert (offset.grad[0, 0, 6:] != 0).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    'options', [{}, dict(softmax=True), dict(num_heads=2, dilation=2), dict(kernel_size=1)], ids=str
)
def test_gradients(attention, options):
    args = inputs((1, 1, 4, 2, 3), options.get('kernel_size', 3))
    args = [tensor.requires_grad_() for tensor in args]
    assert torch.autograd.gradcheck(lambda *a: attention(*a, **options), args)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
def test_the_reference_gradients_are_pytorchs_own(softmax, dtype):
    args = [tensor.requires_grad_() for tensor in inputs((2, 2, 4, 3, 4), 5, dtype=dtype)]
    options = AttentionOptions(5, 2, 2, 0.7, softmax)
    out = reference.forward(*args, options)
    d_out = torch.randn_like(out)
    expected = torch.autograd.grad(out, args, d_out)
    with torch.no_grad():
        got = reference.backward(d_out, *args, options)
    torch.testing.assert_close(got, expected)


def test_gradient_at_a_whole_pixel_is_the_one_towards_the_next(attention):
    value = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64).view(1, 1, 1, 1, 4)
    query = torch.ones_like(value)
    offset = torch.zeros(1, 1, 2, 1, 4, dtype=torch.float64, requires_grad=True)
    attention(query, value, offset, kernel_size=1, scale=1.0).sum().backward()
    # d(s * s)/dx = 2 s (s_next - s), and the pixel after the last one is zero
    assert offset.grad[0, 0, 1, 0].tolist() == [2 * 1 * 1, 2 * 2 * 2, 2 * 4 * 4, 2 * 8 * -8]


@pytest.mark.parametrize('memory', ['channels-last', 'slices', 'transposed'])
def test_strides_do_not_matter(attention, memory):
    query, value, offset = inputs((2, 3, 4, 5, 6))
    expected = attention(query, value, offset)
    if memory == 'channels-last':
        query, value, offset = (
            x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            for x in (query, value, offset)
        )
    elif memory == 'slices':
        query = torch.cat([query, value[:, -1:]], dim=1)[:, :-1]
        value = torch.cat([query[:, :1], value], dim=1)[:, 1:]
    else:
        query, value = (x.transpose(3, 4).contiguous().transpose(3, 4) for x in (query, value))
    assert not (query.is_contiguous() and value.is_contiguous())
    torch.testing.assert_close(attention(query, value, offset), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_half_inputs_accumulate_in_float32(dtype):
    args = inputs((1, 2, 64, 5, 5), dtype=dtype)
    out = inter_frame_attention(*args)
    assert out.dtype == dtype
    exact = inter_frame_attention(*(tensor.double() for tensor in args))
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=1e-4)


@pytest.mark.parametrize(
    ('backend', 'device'),
    [('reference', 'cpu'), pytest.param('triton', DEVICE, marks=pytest.mark.triton)],
)
def test_raw_weights_beyond_float16_do_not_overflow(backend, device):
    query, value, offset = (tensor.to(device) for tensor in inputs((1, 2, 64, 5, 5)))
    args = [tensor.half().requires_grad_() for tensor in (200 * query, 200 * value, offset)]
    weights = torch.einsum('ntchw,ntchw->nthw', *(tensor.double() for tensor in args[:2]))
    assert weights.max() > 2 * torch.finfo(torch.float16).max
    assert torch.isinf(weights.half()).any()

    exact_args = [tensor.detach().double().requires_grad_() for tensor in args]
    out = inter_frame_attention(*args, scale=1e-6, backend=backend)
    exact = inter_frame_attention(*exact_args, scale=1e-6, backend='reference')
    for got, expected in zip(
        (out, *torch.autograd.grad(out.sum(), args)),
        (exact, *torch.autograd.grad(exact.sum(), exact_args)),
        strict=True,
    ):
        assert torch.isfinite(got).all()
        torch.testing.assert_close(
            got.double(), expected, rtol=2e-3, atol=2e-3 * expected.std().item()
        )


@pytest.mark.parametrize(
    'shape',
    [(0, 2, 4, 3, 3), (2, 0, 4, 3, 3), (2, 2, 0, 3, 3)],
    ids=['no-clip', 'no-frame', 'no-channel'],
)
def test_empty_batches(attention, shape):
    args = [tensor.requires_grad_() for tensor in inputs(shape)]
    out = attention(*args)
    out.sum().backward()
    assert out.shape == shape
    assert args[0].grad.shape == shape


def test_named_backend_and_automatic_choice(monkeypatch):
    args = inputs((1, 1, 2, 3, 3))
    assert list(BACKENDS)[-1] == 'reference'
    expected = inter_frame_attention(*args)
    torch.testing.assert_close(inter_frame_attention(*args, backend='reference'), expected)
    picky = Backend(None, None, lambda query: 'it only takes float32', None)
    monkeypatch.setitem(BACKENDS, 'picky', picky)
    with pytest.raises(RuntimeError, match="'picky' cannot take these inputs: it only takes flo"):
        inter_frame_attention(*args, backend='picky')
    with pytest.raises(ValueError, match=r"one of \['triton', .*'picky'\] or None, got 'cuda'"):
        inter_frame_attention(*args, backend='cuda')


q, v, o = inputs((2, 3, 4, 6, 6), dtype=torch.float32)


@pytest.mark.parametrize(
    ('args', 'options', 'message'),
    [
        ((q[0], v, o), {}, r'query must have shape \(N, T, C, H, W\), got \(3, 4, 6, 6\)'),
        ((q.long(), v, o), {}, r'query must have a floating-point dtype, got torch.int64'),
        ((q, v[:, :, :3], o), {}, r'value must have shape \(2, 3, 4, 6, 6\).*\(2, 3, 3, 6, 6\)'),
        ((q, v, o[:, :, :9]), {}, r'offset must have shape \(2, 3, 18, 6, 6\) for query '
         r'\(2, 3, 4, 6, 6\) and kernel_size=3, got \(2, 3, 9, 6, 6\)'),
        ((q, v, o), dict(kernel_size=5), r'offset must have shape \(2, 3, 50, 6, 6\)'),
        ((q, v.double(), o), {}, r'value must have the dtype of query, torch.float32, got torch'),
        ((q, v, o.half()), {}, r'offset must have the dtype of query, torch.float32, got torch'),
        ((q.half(), v.half(), o.double()), {},
         'offset must have the dtype of query, torch.float16, or torch.float32, got torch.float64'),
        ((q, v, o.to('meta')), {}, r'offset must be on the device of query, cpu, got meta'),
        ((q, v, None), {}, r'offset must be a tensor, got NoneType'),
        ((q, v, o), dict(kernel_size=2), r'kernel_size must be odd.* got 2'),
        ((q, v, o), dict(kernel_size=0), r'kernel_size must be a positive integer, got 0'),
        ((q, v, o), dict(kernel_size=3.0), r'kernel_size must be a positive integer, got 3.0'),
        ((q, v, o), dict(dilation=-1), r'dilation must be a positive integer, got -1'),
        ((q, v, o), dict(scale=float('nan')), r'scale must be a finite number or None, got nan'),
        ((q, v, o), dict(scale='1'), r"scale must be a finite number or None, got '1'"),
        ((q, v, o), dict(softmax=None), r'softmax must be True or False, got None'),
        ((q, v, o), dict(num_heads=3), r'num_heads must divide the 4 channels of query, got 3'),
    ],
)  # fmt: skip
def test_mistakes_are_named(args, options, message):
    with pytest.raises(ValueError, match=message):
        inter_frame_attention(*args, **options)


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
def test_the_op_in_pytorchs_own_operators_is_the_same(shape, options, dtype):
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


def test_integers_of_numpy_are_integers():
    three = np.int64(3)
    check_integers(kernel_size=three)
    frames, offset = torch.rand(1, 3, 4, 5, 5), torch.zeros(1, 2, 18, 5, 5)
    inter_frame_attention(frames[:, :-1], frames[:, 1:], offset, kernel_size=three)


@pytest.mark.parametrize('value', [0, -1, True, 2.0, '3', None, math.nan], ids=str)
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(ValueError, match=f'channels must be a positive integer, got {value!r}'):
        check_integers(channels=value)
    with pytest.raises(ValueError, match=r'sides must be 2 positive integers, got \(1, '):
        check_integer_lists(2, sides=(1, value))


def test_stages_ascend():
    check_out_indices((0, 2), 3)
    with pytest.raises(ValueError, match=r'out_indices must ascend.*got \(2, 0\)'):
        check_out_indices((2, 0), 3)
    with pytest.raises(ValueError, match=r'out_indices must be stages out of 0 to 2, got \(3,\)'):
        check_out_indices((3,), 3)
