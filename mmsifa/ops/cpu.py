"""The op on the CPU: the C++ kernels of ``csrc/``, built by ``setup.py``."""

import torch
from torch import Tensor

from mmsifa.ops.arguments import AttentionOptions

try:
    from mmsifa.ops import _cpu  # type: ignore[attr-defined]

    missing = None
except ImportError as error:  # not built, or for another version of PyTorch
    missing = str(error)

AUTOMATIC_ON = ('cpu',)


def forward(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    return _cpu.forward(query, value, offset, *options)


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, value and offset."""
    return _cpu.backward(d_out, query, value, offset, *options)


def unsupported_reason(query: Tensor) -> str | None:
    """Say why this backend cannot take ``query``, or return None."""
    if missing is not None:
        return (
            f'its C++ extension is not there ({missing}): in an environment with PyTorch and a C++ '
            "compiler run 'pip install --no-build-isolation --force-reinstall --no-deps mmsifa', "
            'or the same with the path of its repository'
        )
    if query.device.type != 'cpu':
        return f'it takes tensors on the CPU, got one on {query.device}'
    if query.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f'it takes float32, float64 and bfloat16, got {query.dtype}'
    return None
