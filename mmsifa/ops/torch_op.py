"""The op as PyTorch sees it: one node for autograd, autocast, compilation and FLOP counters."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import Library, custom_op
from torch.utils.flop_counter import register_flop_formula

from mmsifa.ops.arguments import AttentionOptions, new_channels_last
from mmsifa.ops.backends import choose


@custom_op('mmsifa::inter_frame_attention', mutates_args=())
def inter_frame_attention(
    query: Tensor,
    value: Tensor,
    offset: Tensor,
    kernel_size: int,
    dilation: int,
    num_heads: int,
    scale: float,
    softmax: bool,
    backend: str | None,
) -> Tensor:
    """Run a backend's forward pass; its result has channels last in memory."""
    options = AttentionOptions(kernel_size, dilation, num_heads, scale, softmax)
    return _with_channels_last(choose(backend, query).forward(query, value, offset, options))


@custom_op('mmsifa::inter_frame_attention_backward', mutates_args=())
def inter_frame_attention_backward(
    d_out: Tensor,
    query: Tensor,
    value: Tensor,
    offset: Tensor,
    kernel_size: int,
    dilation: int,
    num_heads: int,
    scale: float,
    softmax: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a backend's backward pass; the gradients have channels last in memory."""
    options = AttentionOptions(kernel_size, dilation, num_heads, scale, softmax)
    grads = choose(backend, query).backward(d_out, query, value, offset, options)
    d_query, d_value, d_offset = map(_with_channels_last, grads)
    return d_query, d_value, d_offset


def _with_channels_last(x: Tensor) -> Tensor:
    target = new_channels_last(x)
    return x if x.stride() == target.stride() else target.copy_(x)


@inter_frame_attention.register_fake
def _(query, value, offset, *options):
    return new_channels_last(query)


@inter_frame_attention_backward.register_fake
def _(d_out, query, value, offset, *options):
    return tuple(map(new_channels_last, (query, value, offset)))


def _save_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _differentiate(ctx, d_out):
    grads = inter_frame_attention_backward(d_out, *ctx.saved_tensors, *ctx.options)
    return *grads, *(None for _ in ctx.options)


inter_frame_attention.register_autograd(_differentiate, setup_context=_save_inputs)


def _refuse(ctx, *grads):
    raise RuntimeError(
        'inter_frame_attention has first derivatives only: call it without create_graph=True'
    )


inter_frame_attention_backward.register_autograd(_refuse)


def _promote(query, value, offset, *options):
    """Autocast: features in the wider of their dtypes, offsets in that one or float32."""
    dtype = torch.promote_types(query.dtype, value.dtype)
    offset = offset if offset.dtype == dtype else offset.float()
    with torch.autocast(query.device.type, enabled=False):
        return inter_frame_attention(query.to(dtype), value.to(dtype), offset, *options)


_library = Library('mmsifa', 'FRAGMENT')
for _key in ('AutocastCPU', 'AutocastCUDA'):
    _library.impl('inter_frame_attention', _promote, _key)


def multiplications(query_shape: Sequence[int], kernel_size: int) -> int:
    """Count the multiplications of the forward pass."""
    n, t, c, h, w = query_shape
    return 6 * c * kernel_size**2 * n * t * h * w  # bilinear 4, correlation 1, aggregation 1


@register_flop_formula(torch.ops.mmsifa.inter_frame_attention)
def _flops(query_shape, value_shape, offset_shape, kernel_size, *options, **out) -> int:
    return 2 * multiplications(query_shape, kernel_size)


@register_flop_formula(torch.ops.mmsifa.inter_frame_attention_backward)
def _backward_flops(d_out_shape, query_shape, value_shape, offset_shape, kernel_size, *_, **out):
    # Bilinear again, 2 correlations, 1 for the query, 2 + 4 for the value, 4 for the offset: 17.
    return 17 * multiplications(query_shape, kernel_size) // 3
