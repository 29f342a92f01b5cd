"""The op in PyTorch's own operators: the form that exports, for programs without mmsifa."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import mmsifa.ops.torch_op  # noqa: F401  (registers the operator)
from mmsifa.ops.arguments import AttentionOptions


def inter_frame_attention(
    query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention` by one ``grid_sample`` for all taps.

    That has the op's rule for the border: bilinear, with zeros outside of the frame. It is faster
    in ONNX Runtime than gathering the four pixels around every position.

    Args:
        query: Frames t, (N, T, C, H, W).
        value: Frames t + 1, of the same shape.
        offset: (N, T, 2*K*K, H, W), in pixels, of the dtype of ``query`` or float32.
        options: What is computed.

    Returns:
        The attended features, of the shape and dtype of ``query``.

    Example:
        >>> frames = torch.ones(1, 5, 4, 6, 6)
        >>> offset = torch.zeros(1, 4, 18, 6, 6)
        >>> options = AttentionOptions(3, dilation=1, num_heads=1, scale=0.25, softmax=False)
        >>> out = inter_frame_attention(frames[:, 1:], frames[:, :-1], offset, options)
        >>> out[0, 0, 0, 0, 0].item(), out[0, 0, 0, 3, 3].item()
        (4.0, 9.0)
    """
    kernel_size, dilation, num_heads, scale, softmax = options
    n, t, c, h, w = query.shape
    taps = kernel_size**2
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, v, o = (x.to(dtype).flatten(0, 1) for x in (query, value, offset))
    y, x = _positions(o.unflatten(1, (taps, 2)), kernel_size, dilation)  # (N*T, taps, H, W)
    inside = (y > -1) & (y < h) & (x > -1) & (x < w)  # false for NaN
    y, x = torch.where(inside, y, -2), torch.where(inside, x, -2)
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1).flatten(1, 2)
    samples = F.grid_sample(v, grid, align_corners=False)  # (N*T, C, taps*H, W)
    samples = samples.unflatten(1, (num_heads, c // num_heads)).unflatten(3, (taps, h))
    queries = q.unflatten(1, (num_heads, c // num_heads)).unsqueeze(3)
    weights = (queries * samples).sum(dim=2, keepdim=True) * scale
    if softmax:
        weights = weights.softmax(dim=3)
    out = (weights * samples).sum(dim=3).flatten(1, 2)
    return out.unflatten(0, (n, t)).to(query.dtype)


def _positions(offset: Tensor, kernel_size: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Return y and x, each (B, taps, H, W), of offsets (B, taps, 2, H, W)."""
    h, w = offset.shape[-2:]
    sides = dilation * (torch.arange(kernel_size, device=offset.device) - kernel_size // 2)
    rows = torch.arange(h, device=offset.device)[:, None]
    cols = torch.arange(w, device=offset.device)
    y = sides.repeat_interleave(kernel_size)[:, None, None] + rows + offset[:, :, 0]
    x = sides.repeat(kernel_size)[:, None, None] + cols + offset[:, :, 1]
    return y, x


class Exportable(TorchFunctionMode):
    """Within this context ``torch.export`` traces the op in PyTorch's own operators.

    Example:
        >>> from mmsifa.models import SIFA
        >>> with Exportable():
        ...     program = torch.export.export(SIFA(4).eval(), (torch.ones(1, 2, 4, 6, 6),))
        >>> 'mmsifa' in str(program.graph)
        False
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Take the operator's place, and its strides, so that the layers after need no others."""
        if func is not torch.ops.mmsifa.inter_frame_attention.default:
            return func(*args, **(kwargs or {}))
        query, value, offset, *options = args
        out = inter_frame_attention(query, value, offset, AttentionOptions(*options[:5]))
        return out.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
