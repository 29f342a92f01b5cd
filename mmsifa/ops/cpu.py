"""The op on the CPU: the C++ kernels of ``csrc/``, built by ``setup.py``."""

from pathlib import Path

import torch
from torch import Tensor

from mmsifa.ops.arguments import AttentionOptions, has_adjacent_channels, new_channels_last

#: The library of the kernels, for every Python and every PyTorch from 2.10 on.
LIBRARY = Path(__file__).with_name('_cpu.abi3.so')

try:
    torch.ops.load_library(LIBRARY)
    missing = None
except OSError as error:  # it was not built, or PyTorch is too old
    missing = str(error)

AUTOMATIC_ON = ('cpu',)


def forward(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    out = new_channels_last(query)
    if not query.numel():
        return out
    inputs = _readable(query), _readable(value), _readable_offset(offset, query)
    torch.ops.mmsifa.cpu_forward.default(*inputs, out, *options)
    return out


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, value and offset."""
    dtype = offset.dtype
    d_out, query, value = _readable(d_out), _readable(query), _readable(value)
    offset = _readable_offset(offset, query)
    grads = new_channels_last(query), new_channels_last(value), new_channels_last(offset)
    if not query.numel():
        return grads[0], grads[1], grads[2].zero_().to(dtype)
    taps = query.shape[:2] + query.shape[3:] + (options.num_heads, options.kernel_size**2)
    attention = offset.new_empty((*taps, 2))
    torch.ops.mmsifa.cpu_backward.default(d_out, query, value, offset, *grads, attention, *options)
    return grads[0], grads[1], grads[2].to(dtype)


def _readable(x: Tensor) -> Tensor:
    return x if has_adjacent_channels(x) and _has_even_steps(x) else new_channels_last(x).copy_(x)


def _readable_offset(offset: Tensor, query: Tensor) -> Tensor:
    """Offsets of any layout in the precision of the sums."""
    offset = offset.to(torch.promote_types(query.dtype, torch.float32))
    return offset if _has_even_steps(offset) else new_channels_last(offset).copy_(offset)


def _has_even_steps(x: Tensor) -> bool:
    """Whether a frame's pixels follow each other in equal distances."""
    return 1 in x.shape[3:] or x.stride(3) == x.shape[4] * x.stride(4)


def unsupported_reason(query: Tensor) -> str | None:
    """Say why this backend cannot take ``query``, or return None."""
    if missing is not None and torch.__version__ < '2.10':
        return f'its C++ extension needs PyTorch 2.10 or later, found {torch.__version__}'
    if missing is not None:
        return (
            f'its C++ extension is not there ({missing}): where a C++ compiler is, run '
            "'pip install --force-reinstall --no-deps' with the path of mmsifa's repository"
        )
    if query.device.type != 'cpu':
        return f'it takes tensors on the CPU, got one on {query.device}'
    if query.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f'it takes float32, float64 and bfloat16, got {query.dtype}'
    return None
