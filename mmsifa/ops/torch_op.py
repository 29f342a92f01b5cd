"""The op as PyTorch sees it: one node for autograd, autocast, compilation and FLOP counters."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import Library, infer_schema, register_autograd, register_fake
from torch.utils.flop_counter import register_flop_formula

from mmsifa.ops.arguments import AttentionOptions, new_channels_last
from mmsifa.ops.backends import choose


def _forward(
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


def _backward(
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


def _fake_forward(query, value, offset, *options):
    return new_channels_last(query)


def _fake_backward(d_out, query, value, offset, *options):
    return tuple(map(new_channels_last, (query, value, offset)))


def _save_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _differentiate(ctx, d_out):
    grads = inter_frame_attention_backward(d_out, *ctx.saved_tensors, *ctx.options)
    return *grads, *(None for _ in ctx.options)


def _refuse(ctx, *grads):
    raise RuntimeError(
        'inter_frame_attention has first derivatives only: call it without create_graph=True'
    )


def _promote(query, value, offset, *options):
    """Autocast: features in the wider of their dtypes, offsets in that one or float32."""
    dtype = torch.promote_types(query.dtype, value.dtype)
    offset = offset if offset.dtype == dtype else offset.float()
    with torch.autocast(query.device.type, enabled=False):
        return inter_frame_attention(query.to(dtype), value.to(dtype), offset, *options)


_library = Library('mmsifa', 'FRAGMENT')
# What torch.library.custom_op does, without its checks at each call.
for _name, _function, _fake, _differentiable in (
    ('inter_frame_attention', _forward, _fake_forward, (_differentiate, _save_inputs)),
    ('inter_frame_attention_backward', _backward, _fake_backward, (_refuse, None)),
):
    _schema = infer_schema(_function, mutates_args=())
    _library.define(_name + _schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(_name, _function, 'CompositeExplicitAutograd')
    register_fake(f'mmsifa::{_name}', _fake)
    register_autograd(f'mmsifa::{_name}', _differentiable[0], setup_context=_differentiable[1])
inter_frame_attention = torch.ops.mmsifa.inter_frame_attention.default
inter_frame_attention_backward = torch.ops.mmsifa.inter_frame_attention_backward.default

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
