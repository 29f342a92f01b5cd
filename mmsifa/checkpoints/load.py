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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmsifa.checkpoints.policy import STAND_INS
from mmsifa.checkpoints.scan import NotAllowed, scan


class CheckpointError(ValueError):
    """A checkpoint that is refused; the message says what was expected and what to do."""


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
        "MMEngine's training state; if you trust whoever made the file, write its weights alone "
        "into another one by 'mmsifa convert --trust IN OUT', otherwise fetch it again or do not "
        'use it'
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
            if torch.__version__ < '2.10':
                raise CheckpointError(
                    f'cannot load {f}: safetensors need PyTorch 2.10 or later, this is '
                    f'{torch.__version__}: update it, or load the file where it is newer'
                )
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
    with _stand_ins_alone():
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


@contextlib.contextmanager
def _stand_ins_alone() -> Iterator[None]:
    """Allow torch the stand-ins and not what else somebody has allowed, such as their originals."""
    allowed: list = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


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


def load_safely(load: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
    """Let a function of MMEngine load a checkpoint, safely.

    ``meta['config']`` is taken away, which resuming would run as Python code
    (mmengine/runner/runner.py:2028).

    Args:
        load: The function, which calls ``torch.load``.
        path: Its first argument: a path or URL.
        *args: Its other arguments.
        **kwargs: Likewise.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: As in :func:`safe_loading`, and if the path is that of a folder.
    """
    if Path(path).expanduser().is_dir():
        raise refused(path, 'it is a folder')
    with safe_loading():
        checkpoint = load(path, *args, **kwargs)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def load_file(path: str) -> Mapping:
    """Read a checkpoint from a path, a URL or ``'torchvision://resnet50'`` onto the CPU, safely."""
    from mmengine.runner import CheckpointLoader  # patched to load by load_safely

    return CheckpointLoader.load_checkpoint(path, map_location='cpu')
