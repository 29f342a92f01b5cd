"""The op out of MMCV's modulated deformable convolution, to check our own kernels against.

With an identity as its kernel at every tap, the convolution is the op's aggregation and the
gradient of its mask is the op's correlation.
"""

import functools
import importlib
import math

import torch
from torch import Tensor

from mmsifa.ops.arguments import AttentionOptions

AUTOMATIC_ON = ('cuda',)

_SETUP = 'bash tools/setup_mmcv.sh'
_BLOCK = 32  # channels; MMCV loops over blocks, but a larger one multiplies by more zeros


@functools.cache
def _import_error() -> str | None:
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def _has_cuda() -> bool:
    return importlib.import_module('mmcv.ops').get_compiling_cuda_version() != 'not available'


def unsupported_reason(query: Tensor) -> str | None:
    """Return why this backend cannot take ``query``, or None if it can."""
    if query.device.type not in ('cpu', 'cuda'):
        return f'it takes tensors on the CPU and on CUDA devices, got {query.device}'
    error = _import_error()
    if error is not None:
        return f'it needs full MMCV, with compiled ops: {_SETUP} ({error})'
    if query.is_cuda and not _has_cuda():
        return f'it needs MMCV built with CUDA, where torch sees the GPU: {_SETUP}'
    return None


def forward(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    if not query.numel():
        return torch.zeros_like(query)
    conv = _Convolution(value, offset, options)
    weights = _weights(conv.correlate(_frames(query)), options)
    return conv.aggregate(weights).view(query.shape).to(query.dtype)


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate :func:`forward`: samples weigh in the output and in the correlation."""
    if not query.numel():
        return torch.zeros_like(query), torch.zeros_like(value), torch.zeros_like(offset)
    conv = _Convolution(value, offset, options)
    q, g = _frames(query), _frames(d_out)
    weights = _weights(conv.correlate(q), options)
    d_value, d_offset, d_weights = conv.differentiate(weights, g)
    d_scores = d_weights
    if options.softmax:
        d_scores = weights * (d_weights - (weights * d_weights).sum(dim=2, keepdim=True))
    d_scores = options.scale * d_scores
    d_query = conv.aggregate(d_scores)
    for total, part in zip((d_value, d_offset), conv.differentiate(d_scores, q)[:2], strict=True):
        total += part
    n, t, _, h, w = offset.shape
    d_offset = d_offset.view(n, t, options.num_heads, -1, h, w).sum(
        dim=2
    )  # heads share the offsets
    return (
        d_query.view(query.shape).to(query.dtype),
        d_value.view(value.shape).to(value.dtype),
        d_offset.to(offset.dtype),
    )


def _frames(x: Tensor) -> Tensor:
    """Make frames (N, T, C, H, W) a batch (N*T, C, H, W) as MMCV's kernels read it."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # half inputs accumulate in float32
    return x.to(dtype).flatten(0, 1).contiguous()


def _weights(correlation: Tensor, options: AttentionOptions) -> Tensor:
    scores = options.scale * correlation
    return scores.softmax(dim=2) if options.softmax else scores


class _Convolution:
    """MMCV's convolution of ``value``, sampled as ``offset`` says; masks are (B, G, K*K, H, W)."""

    def __init__(self, value: Tensor, offset: Tensor, options: AttentionOptions) -> None:
        kernel_size, dilation, num_heads = options[:3]
        self.value = _frames(value)
        offset = _push_outside_far_away(_frames(offset).to(self.value.dtype), kernel_size, dilation)
        self.offset = offset.repeat(1, num_heads, 1, 1)
        channels = value.shape[2]
        block = math.gcd(channels, _BLOCK)
        identity = torch.eye(block, dtype=self.value.dtype, device=self.value.device)
        self.kernel = identity.repeat(channels // block, 1)[:, :, None, None].repeat(
            1, 1, kernel_size, kernel_size
        )
        self.mask_shape = (len(offset), num_heads, kernel_size**2, *offset.shape[2:])
        self.options = dict(
            kernel_h=kernel_size,
            kernel_w=kernel_size,
            stride_h=1,
            stride_w=1,
            pad_h=dilation * (kernel_size // 2),
            pad_w=dilation * (kernel_size // 2),
            dilation_h=dilation,
            dilation_w=dilation,
            group=channels // block,
            deformable_group=num_heads,
            with_bias=False,
        )
        # Below autograd, where MMCV's autograd functions record nothing: their kernels instead.
        self.kernels = importlib.import_module('mmcv.ops.modulated_deform_conv').ext_module

    def aggregate(self, mask: Tensor) -> Tensor:
        """Sum the samples, each times its mask: (B, C, H, W)."""
        out, unused = torch.zeros_like(self.value), self.value.new_empty(0)
        self.kernels.modulated_deform_conv_forward(
            self.value, self.kernel, unused, unused, self.offset, mask.flatten(1, 2).contiguous(),
            out, unused, **self.options,
        )  # fmt: skip
        return out

    def correlate(self, x: Tensor) -> Tensor:
        """Multiply every sample with ``x``, (B, C, H, W), over the channels of a head."""
        return self.differentiate(x.new_zeros(self.mask_shape), x)[2]

    def differentiate(self, mask: Tensor, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of value, of the offset of each head and of the mask."""
        unused = self.value.new_empty(0)
        mask = mask.flatten(1, 2).contiguous()
        inputs = (self.value, self.offset, mask, self.kernel)
        d_value, d_offset, d_mask, d_kernel = map(torch.zeros_like, inputs)
        self.kernels.modulated_deform_conv_backward(
            self.value, self.kernel, unused, unused, self.offset, mask, unused,
            d_value, d_kernel, unused, d_offset, d_mask, d_out, **self.options,
        )  # fmt: skip
        return d_value, d_offset, d_mask.view(self.mask_shape)


def _push_outside_far_away(offset: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Make every offset (B, 2*K*K, H, W) that leads outside one finite, small number.

    MMCV makes indices even of NaN. It takes the floor of a float64 in float32, which for a position
    just within the border is an index outside.
    """
    h, w = offset.shape[2:]
    o = offset.unflatten(1, (kernel_size, kernel_size, 2))
    steps = dilation * (torch.arange(kernel_size, device=offset.device) - kernel_size // 2)
    rows = torch.arange(h, device=offset.device).view(h, 1)
    cols = torch.arange(w, device=offset.device)
    y = o[:, :, :, 0] + (rows + steps.view(-1, 1, 1, 1))  # (B, K, K, H, W)
    x = o[:, :, :, 1] + (cols + steps.view(-1, 1, 1))
    inside = (y > -1) & (y.float() < h) & (x > -1) & (x.float() < w)  # false for NaN
    far = h + w + dilation * kernel_size
    return torch.where(inside.unsqueeze(3), o, far).flatten(1, 3)
