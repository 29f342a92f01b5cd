"""Checkpoint files, loaded so that they can do no harm.

docs/checkpoints.md says what they may hold. A file is scanned, then loaded by
``torch.load(weights_only=True)``, whose list of allowed names is extended by stand-ins while that
lasts.
"""

import contextlib
import os
import pickle
import struct
import threading
import traceback
import zipfile
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from mmsifa.checkpoints.scan import FUNCTIONS, NUMBERS, NotAllowed, scan


class CheckpointError(ValueError):
    """A checkpoint that is refused; the message says what was expected and what to do."""


# Stand-ins rebuild what MMEngine's checkpoints hold beside tensors: the real getattr would let a
# file run commands, the real numpy names forge object arrays whose items are stray memory.


class _OneCycle:
    """Opaque stand-in for the scheduler whose annealing function a checkpoint names."""


def _getattr(owner, name):
    for stand_in, cls in ((HistoryBuffer, HistoryBuffer), (_OneCycle, OneCycleParamScheduler)):
        if owner is stand_in and name in FUNCTIONS[f'{cls.__module__}.{cls.__qualname__}']:
            return getattr(cls, name)
    raise pickle.UnpicklingError(f'it asks for getattr({owner!r}, {name!r})')


class _DType:
    """Stand-in for ``numpy.dtype``: plain numbers only."""

    def __init__(self, code, align=False, copy=False):
        if not NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f'it asks for arrays of numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stand-in for ``numpy.ndarray``, empty until its state is set; it is saved as a real one."""

    def __new__(cls, *args):
        if args:
            raise pickle.UnpicklingError(f'it asks for numpy.ndarray{args}')
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state):
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.dtype, fortran, data))

    def __reduce__(self):
        return np.asarray(self).__reduce__()


def _reconstruct(cls, shape, code):
    return _Array()


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _no_bytes():
    return b''


SAFE_GLOBALS = {
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _OneCycle,
    'builtins.getattr': _getattr,
    'builtins.bytes': _no_bytes,
    'numpy.dtype': _DType,
    'numpy.ndarray': _Array,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.core.multiarray._reconstruct': _reconstruct,  # files of numpy 1
    'numpy.core.multiarray.scalar': _scalar,
}
_torch_load = torch.load
_lock = threading.RLock()
# What Python and torch raise on the bytes of other files.
_DAMAGED = (
    AssertionError, AttributeError, EOFError, LookupError, OverflowError, TypeError, ValueError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def refused(path: object, reason: str) -> CheckpointError:
    """Make the error that says why a file is not loaded, in one line whatever the file holds."""
    reason = ''.join(c if c.isprintable() else '?' for c in reason[:300])
    return CheckpointError(
        f'refused to load the checkpoint {path}: {reason}, expected tensors, numbers, strings and '
        "MMEngine's training state; if you wrote the file, save its state_dict alone, otherwise "
        'fetch it again or do not use it'
    )


def _safe_load(f, *args, **kwargs):
    """``torch.load`` of weights and of MMEngine's training state, and of nothing else."""
    if kwargs.get('mmap'):
        raise ValueError(
            'mmap=True is not supported for checkpoints that are scanned first, since a mapped '
            'file may change afterwards: leave it out'
        )
    kwargs |= dict(weights_only=True, mmap=False)  # torch.hub passes False; a global option maps
    if isinstance(f, (str, os.PathLike)):
        if os.path.isdir(f):
            raise refused(f, 'it is a folder')
        if str(f).endswith('.safetensors'):  # no pickle
            return _torch_load(f, *args, **kwargs)
        with open(f, 'rb') as file:  # once, so that what is scanned is what is loaded
            return _safe_load(file, *args, **kwargs)
    if not (hasattr(f, 'read') and hasattr(f, 'seek')) or not isinstance(f.read(0), bytes):
        raise TypeError(f'expected a path or a file that is open in binary mode, got {f!r}')
    f.seek(0)
    name = getattr(f, 'name', 'in memory')
    try:
        scan(f)
    except NotAllowed as error:
        raise refused(name, str(error)) from None
    except (*_DAMAGED, MemoryError, RuntimeError) as error:  # the latter from torch's zip reader
        raise refused(name, _damage(error)) from None
    allowed: list = [(stand_in, name) for name, stand_in in SAFE_GLOBALS.items()]
    with torch.serialization.safe_globals(allowed):
        try:
            return _torch_load(f, *args, **kwargs)
        except _DAMAGED:
            try:
                f.seek(0)
                _torch_load(f, 'cpu', weights_only=True, mmap=False)
            except pickle.UnpicklingError as error:
                text = str(error).split('WeightsUnpickler error:')[-1].strip()
                raise refused(name, text.splitlines()[0]) from None
            except _DAMAGED as error:
                raise refused(name, _damage(error)) from None
            raise  # the file loads without the caller's arguments, so these are wrong


def _damage(error: BaseException) -> str:
    text = traceback.format_exception_only(error)[0].splitlines()[0]
    return f'it is damaged or no checkpoint ({text})'


@contextlib.contextmanager
def safe_loading() -> Iterator[None]:
    """Let ``torch.load`` read what MMEngine's checkpoints hold, safely, within a ``with`` block.

    ``weights_only=True`` holds even where the caller asks for ``False``. One thread at a time is in
    such a block; a ``torch.load`` of another thread meanwhile loads by the same rules.

    Raises:
        CheckpointError: By ``torch.load``, if the file holds anything else, is damaged, or claims
            more than it holds. Nothing of it has run then.

    Example:
        >>> import io
        >>> from mmengine.logging import HistoryBuffer
        >>> file = io.BytesIO()
        >>> torch.save({'loss': HistoryBuffer([0.5], [1])}, file)
        >>> _ = file.seek(0)
        >>> with safe_loading():
        ...     float(torch.load(file)['loss'].mean())
        0.5
    """
    with _lock:
        before = torch.load
        torch.load = _safe_load  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.load = before
