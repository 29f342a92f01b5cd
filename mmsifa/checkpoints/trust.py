"""Loading one file that its user trusts.

Files of other projects often hold more than weights, such as an ``argparse.Namespace``, and are
refused everywhere else. Only a call trusts a file: no config or variable of the environment does.
"""

import hashlib
import io
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsifa.checkpoints.fit import state_dict_in
from mmsifa.checkpoints.load import CheckpointError, safe_loading
from mmsifa.fileio.atomic_write import write_atomically


def load_trusted(path: str | Path, sha256: str | None = None) -> Any:
    """Load a checkpoint that you trust, whatever it holds: **the file may run any code**.

    Trust counts for this call alone; the next load of the same file is refused as before.

    Args:
        path: A file of this machine.
        sha256: The SHA-256 that the file must have, in hexadecimal digits. Defaults to None: any.

    Returns:
        What was saved, with its tensors on the CPU.

    Raises:
        CheckpointError: If the file has another SHA-256, is damaged, or needs code that cannot be
            imported here.
        OSError: If it cannot be read.

    Example:
        >>> import argparse, tempfile
        >>> import torch
        >>> from mmsifa.checkpoints import load_trusted
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': {}, 'args': argparse.Namespace(lr=0.1)}, file.name)
        ...     load_trusted(file.name)
        {'model': {}, 'args': Namespace(lr=0.1)}
    """
    content = Path(path).read_bytes()  # once, so that what is hashed is what is loaded
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise CheckpointError(
            f'did not load the checkpoint {path}: its SHA-256 is {found}, expected {sha256}; fetch '
            'it again or do not use it'
        )
    try:
        # Not torch.load, which another thread may have replaced by safe_loading.
        return torch.serialization.load(io.BytesIO(content), 'cpu', weights_only=False)
    except Exception as error:  # whatever its code raises
        reason = traceback.format_exception_only(error)[0].splitlines()[0]
        raise CheckpointError(
            f'cannot load the checkpoint {path} ({reason}), expected a file of torch.save whose '
            'classes can be imported here: fetch it again, or run this where the code that wrote '
            'it is installed'
        ) from error


def write_weights(checkpoint: Mapping, path: str | Path) -> tuple[list[str], list[str]]:
    """Write the weights of a checkpoint alone, into a file that loads without trust.

    Args:
        checkpoint: Weights by name, or a dict with those as its ``'state_dict'`` or ``'model'``.
        path: The file to write.

    Returns:
        The names of the weights, and the names of what else there was.

    Raises:
        ValueError: If there are no weights, or a :class:`CheckpointError` if they are tensors of a
            kind that does not load.
        OSError: If the file cannot be written; one that was there stays then.
    """
    state_dict = state_dict_in(checkpoint)
    weights = {
        name: tensor.detach().clone()
        for name, tensor in state_dict.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    if not weights:
        raise ValueError(
            "expected weights by name, or a dict with those as its 'state_dict' or 'model', got "
            f'one of {sorted(map(str, checkpoint))[:5]}: pick them out in Python, from what '
            'mmsifa.checkpoints.load_trusted returns'
        )
    buffer = io.BytesIO()
    torch.save({'state_dict': weights}, buffer)
    with safe_loading():
        torch.load(buffer)  # or this file would be refused, too
    write_atomically(path, buffer.getvalue())
    beside = [str(n) for n in state_dict if n not in weights]
    if state_dict is not checkpoint:
        beside += [str(n) for n, value in checkpoint.items() if value is not state_dict]
    return list(weights), beside
