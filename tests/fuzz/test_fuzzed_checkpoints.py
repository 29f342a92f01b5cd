"""Checkpoint files with changed bytes: refused, or the same content, and nothing else happens."""

import codecs
import contextlib
import functools
import io
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer

from mmsifa.checkpoints.load import CheckpointError, safe_loading

# What loading a file must never do; Python reports it before it happens.
FORBIDDEN = ('os.', 'subprocess.', 'shutil.', 'socket.', 'exec', 'ctypes.', 'tempfile.')
events: list[str] = []


@functools.cache
def real_files() -> list[tuple[bytes, Any]]:
    """Return small checkpoints in both formats, with what they hold."""
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    content = dict(
        meta=dict(epoch=1, iter=2, cfg='model = dict()'),
        state_dict={'weight': torch.randn(4, 3).T, 'bias': torch.ones(2, dtype=torch.bfloat16)},
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars={'loss': HistoryBuffer([0.5, 0.25], [1, 1])}),
        parameter=parameter, score=np.float64(0.5), names=('a', b'b'),
    )  # fmt: skip
    files = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        files.append((file.getvalue(), content))
    return files


@examples(400)
@given(st.sampled_from(['zip', 'pickle', 'legacy']), st.randoms(use_true_random=False))
def test_changed_files_are_refused_or_hold_the_same(kind, rng):
    data, content = real_files()[kind == 'legacy']
    if kind == 'pickle':  # with a checksum that fits, to come past it
        data = with_pickle(data, lambda part: mutate(part, rng))
    else:
        data = mutate(data, rng)
    try:
        loaded = watch(lambda: load(data))
    except CheckpointError as error:
        if '\n' in str(error):
            raise AssertionError(f'{kind}: more than a line: {error}') from error
        return
    if kind == 'zip' and not same(loaded, content):
        raise AssertionError(f'{kind}: loaded something else: {loaded}')


def load(data: bytes) -> Any:
    """Load a checkpoint from memory."""
    with safe_loading():
        return torch.load(io.BytesIO(data), map_location='cpu')


def watch(function: Callable) -> Any:
    """Call a function; fail if it touched anything outside of the process's memory."""
    begin_to_watch()
    events.clear()
    try:
        return function()
    finally:
        seen = list(events)
        if seen:
            raise AssertionError(f'it did {seen}')


@functools.cache
def begin_to_watch() -> None:
    """Let Python report what it does, once all that is imported late has been imported."""
    codecs.lookup('cp437')  # of names in zip files
    for data, _ in real_files():
        load(data)
        with contextlib.suppress(CheckpointError):
            load(data[:-50])
    sys.addaudithook(note)


def note(event: str, args: tuple) -> None:
    """Note what Python reports about itself."""
    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')
    if writes or event.startswith(FORBIDDEN):
        events.append(event)


def with_pickle(data: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Change the pickle of a checkpoint and make its checksum anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, edit(part) if name.endswith('.pkl') else part)
    return out.getvalue()


OPCODES = [
    code
    for name in pickle.__all__
    if isinstance(code := getattr(pickle, name), bytes) and len(code) == 1
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, insert, remove, repeat or cut bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place, size = rng.randrange(len(out) or 1), rng.choice((1, 1, 2, 4, 8, 64))
        change = rng.randrange(7)
        if change == 0 and out:
            out[place % len(out)] ^= 1 << rng.randrange(8)
        elif change == 1:
            out[place : place + 1] = rng.choice(OPCODES)
        elif change == 2:
            del out[place : place + size]
        elif change == 3:
            out[place:place] = out[place : place + size]
        elif change == 4:
            out[place : place + size] = rng.choice((b'\0', b'\xff', b'\x7f')) * size
        elif change == 5:
            other = rng.randrange(len(out) or 1)
            out[place : place + size] = out[other : other + size]
        elif rng.random() < 0.2:
            del out[place:]
    return bytes(out)


def same(x: Any, y: Any) -> bool:
    """Compare two contents by what they are saved as."""
    if isinstance(x, torch.Tensor):
        return isinstance(y, torch.Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, HistoryBuffer):
        return isinstance(y, HistoryBuffer) and same(x.data, y.data)
    if isinstance(x, np.ndarray):
        return np.array_equal(x, y)
    if isinstance(x, dict):
        return isinstance(y, dict) and list(x) == list(y) and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)):
        return type(x) is type(y) and len(x) == len(y) and all(map(same, x, y))
    return type(x) is type(y) and x == y


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_unchanged_files_hold_the_same(kind):
    data, content = real_files()[kind == 'legacy']
    assert same(watch(lambda: load(data)), content)
    if kind == 'zip':
        assert same(load(with_pickle(data, lambda part: part)), content)


def test_the_watch_sees_commands_and_files(tmp_path):
    with pytest.raises(AssertionError, match=r"it did \['os.system'\]"):
        watch(lambda: os.system('true'))
    with pytest.raises(AssertionError, match=r"it did \['open'\]"):
        watch(lambda: open(tmp_path / 'file', 'w').close())
