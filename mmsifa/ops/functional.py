"""The public op: its contract and its checks."""

import sys
from typing import Any

import torch
from torch import Tensor

from mmsifa.ops import reference, torch_op
from mmsifa.ops.arguments import AttentionOptions, check_flags, check_integers

_MAX = sys.float_info.max


def inter_frame_attention(
    query: Tensor,
    value: Tensor,
    offset: Tensor,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    num_heads: int = 1,
    scale: float | None = None,
    softmax: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Attend from every position of a frame to deformed neighbours in the next frame.

    With :math:`q` the query frame, :math:`v` the next frame, which is key and value at once, and
    :math:`K` the side of the window, tap :math:`k = k_y K + k_x` of position :math:`p` computes

    .. math::
        s_k(p) &= v\left(p + \text{dilation} \cdot ((k_y, k_x) - \tfrac{K-1}{2}) + o_k(p)\right) \\
        w_k(p) &= \text{scale} \cdot \langle q(p), s_k(p) \rangle \quad \text{per head} \\
        \text{out}(p) &= \sum_k w_k(p) \, s_k(p)

    where :math:`v(\cdot)` is bilinear with zeros outside the frame: a sample counts where
    ``-1 < y < H`` and ``-1 < x < W``, and its gradient at a whole pixel is the one towards the next
    pixel. A NaN, infinite or huge offset is outside: it gives zero and zero gradient. Inputs of
    half precision are accumulated in float32, where positions are computed, too. All three inputs
    have gradients of their own dtypes; query and value must be finite. Under autocast query and
    value take the wider of their dtypes, and an offset of another one becomes float32.

    Args:
        query: Frames t, (N, T, C, H, W), of any float dtype and any strides.
        value: Frames t + 1, of the shape, dtype and device of ``query``.
        offset: (N, T, 2*K*K, H, W), in pixels of the feature map: channel 2k moves tap k down and
            channel 2k + 1 moves it to the right. Of the dtype of ``query`` or float32, which half
            precision cannot replace: bfloat16 has steps of 1/16 between 8 and 16 pixels.
        kernel_size: K, odd. Defaults to 3.
        dilation: Distance of neighbouring taps in pixels. Defaults to 1.
        num_heads: Number of attention heads; it divides C. Defaults to 1.
        scale: Factor of the weights. Defaults to one over the channels of a head.
        softmax: Whether the weights of a position's taps go through a softmax. The paper uses them
            as they are, which is the default.
        backend: ``'triton'`` for GPUs, ``'cpu'`` for CPUs (C++), ``'mmcv'`` for both where full
            MMCV is installed, ``'reference'`` for all. Defaults to the fastest that takes the
            inputs. A missing one says how to get it.

    Returns:
        The attended features, of the shape, dtype and device of ``query``.

    Raises:
        ValueError: If an argument has a wrong type, shape, dtype, device or value.
        RuntimeError: If the named ``backend`` cannot take the inputs.

    Example:
        >>> import torch
        >>> from mmsifa.ops import inter_frame_attention
        >>> frames = torch.ones(1, 5, 4, 6, 6)  # one clip of 5 frames
        >>> offset = torch.zeros(1, 4, 18, 6, 6)
        >>> out = inter_frame_attention(frames[:, :-1], frames[:, 1:], offset)
        >>> out.shape
        torch.Size([1, 4, 4, 6, 6])
        >>> out[0, 0, 0, 0, 0].item(), out[0, 0, 0, 3, 3].item()  # 4 of 9 neighbours exist; all do
        (4.0, 9.0)
    """
    options = _checked(query, value, offset, kernel_size, dilation, num_heads, scale, softmax)
    if not isinstance(backend, (str, type(None))):
        raise ValueError(f'backend must be a name or None, got {backend!r}')
    return torch_op.inter_frame_attention(query, value, offset, *options, backend)


def inter_frame_attention_weights(
    query: Tensor,
    value: Tensor,
    offset: Tensor,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    num_heads: int = 1,
    scale: float | None = None,
    softmax: bool = False,
) -> Tensor:
    r"""Compute the attention weights :math:`w_k(p)` of :func:`inter_frame_attention`.

    The op itself keeps none. This computes them in plain PyTorch, to be looked at or learned
    through, in several times the time and memory that the op takes. All three inputs have
    gradients.

    Args:
        query: Frames t, (N, T, C, H, W), of any float dtype and any strides.
        value: Frames t + 1, of the shape, dtype and device of ``query``.
        offset: (N, T, 2*K*K, H, W), in pixels of the feature map, of the dtype of ``query`` or
            float32.
        kernel_size: K, odd. Defaults to 3.
        dilation: Distance of neighbouring taps in pixels. Defaults to 1.
        num_heads: Number of attention heads G; it divides C. Defaults to 1.
        scale: Factor of the weights. Defaults to one over the channels of a head.
        softmax: Whether the weights of a position's taps go through a softmax. Defaults to False.

    Returns:
        The weights (N, T, G, K*K, H, W), in float32 for inputs of half precision.

    Raises:
        ValueError: If an argument has a wrong type, shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from mmsifa.ops import inter_frame_attention_weights
        >>> frames = torch.ones(1, 5, 4, 6, 6)  # one clip of 5 frames
        >>> offset = torch.zeros(1, 4, 18, 6, 6)
        >>> weights = inter_frame_attention_weights(frames[:, :-1], frames[:, 1:], offset)
        >>> weights.shape
        torch.Size([1, 4, 1, 9, 6, 6])
        >>> weights[0, 0, 0, :, 0, 0].tolist()  # of the first pixel's neighbours 4 exist
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    """
    options = _checked(query, value, offset, kernel_size, dilation, num_heads, scale, softmax)
    return reference.weights(query, value, offset, options)


def check_options(kernel_size: int, dilation: int, num_heads: int, softmax: bool) -> None:
    """Refuse options that :func:`inter_frame_attention` takes for no inputs.

    Raises:
        ValueError: If one has a wrong type or value.
    """
    check_integers(kernel_size=kernel_size, dilation=dilation, num_heads=num_heads)
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd, got {kernel_size}: a window has a centre')
    if dilation * kernel_size >= 2**30:
        raise ValueError(
            f'dilation times kernel_size must be less than 2**30, got {dilation} x {kernel_size}'
        )
    check_flags(softmax=softmax)


def _checked(query: Tensor, value: Tensor, offset: Tensor, *args: Any) -> AttentionOptions:
    """Return the options; a scale of None becomes one over the channels of a head."""
    kernel_size, dilation, num_heads, scale, softmax = args
    check_options(kernel_size, dilation, num_heads, softmax)
    for name, tensor in (('query', query), ('value', value), ('offset', offset)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f'{name} must be a tensor, got {type(tensor).__name__}')
        if tensor.layout != torch.strided:
            raise ValueError(f'{name} must be a dense tensor, got {tensor.layout}')
    if query.dim() != 5:
        raise ValueError(f'query must have shape (N, T, C, H, W), got {tuple(query.shape)}')
    if not query.is_floating_point():
        raise ValueError(f'query must have a floating-point dtype, got {query.dtype}')
    n, t, c, h, w = query.shape
    if c % num_heads:
        raise ValueError(f'num_heads must divide the {c} channels of query, got {num_heads}')
    offset_shape = (n, t, 2 * kernel_size**2, h, w)
    for name, tensor, shape, dtypes in (
        ('value', value, (n, t, c, h, w), [query.dtype]),
        ('offset', offset, offset_shape, [query.dtype, torch.float32]),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f'{name} must have shape {shape} for query {tuple(query.shape)} and '
                f'kernel_size={kernel_size}, got {tuple(tensor.shape)}'
            )
        if tensor.dtype not in dtypes and not is_autocasting(query.device.type):
            expected = ', or '.join(map(str, dict.fromkeys(dtypes)))
            raise ValueError(f'{name} must have the dtype of query, {expected}, got {tensor.dtype}')
        if tensor.device != query.device:
            raise ValueError(
                f'{name} must be on the device of query, {query.device}, got {tensor.device}'
            )
    if scale is not None and not (isinstance(scale, (int, float)) and abs(scale) <= _MAX):
        raise ValueError(f'scale must be a finite number or None, got {scale!r}')
    if scale is None:
        scale = num_heads / c if c else 1.0
    return AttentionOptions(kernel_size, dilation, num_heads, float(scale), softmax)


def is_autocasting(device: str) -> bool:
    """Return whether autocast is on for this type of device."""
    # torch.amp.is_autocast_available breaks graphs of PyTorch before 2.13
    return device != 'meta' and torch.is_autocast_enabled(device)
