"""The op on the CPU: the C++ kernels of ``csrc/``, built by ``setup.py``."""

from pathlib import Path

import torch
from torch import Tensor

from mmsifa.ops.arguments import AttentionOptions

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
    return torch.ops.mmsifa.cpu_forward.default(query, value, offset, *options)


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, value and offset."""
    return torch.ops.mmsifa.cpu_backward.default(d_out, query, value, offset, *options)


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
