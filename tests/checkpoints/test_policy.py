"""What a checkpoint may name is needed, all of it, and documented."""

import re
from pathlib import Path

import pytest
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa.checkpoints import scan, stand_ins
from mmsifa.checkpoints.load import CheckpointError
from mmsifa.checkpoints.policy import ALLOWED

ROOT = Path(__file__).parents[2]


def errors_of(paths):
    errors = []
    for path in paths:
        try:
            CheckpointLoader.load_checkpoint(str(path), 'cpu', None)
        except CheckpointError as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize('name', sorted(ALLOWED))
def test_no_name_is_allowed_in_vain(name, usual_files, monkeypatch):
    monkeypatch.setattr(scan, 'ALLOWED', ALLOWED - {name})
    errors = errors_of(usual_files)
    assert errors
    assert all(f'it asks for {name}, expected' in error for error in errors)


@pytest.mark.parametrize('name', sorted(stand_ins.STAND_INS))
def test_torch_needs_every_stand_in(name, usual_files, monkeypatch):
    monkeypatch.delitem(stand_ins.STAND_INS, name)
    errors = errors_of(usual_files)
    assert errors
    assert all(name.removeprefix('builtins.') in error for error in errors)


def test_the_page_lists_what_is_allowed():
    page = (ROOT / 'docs/checkpoints.md').read_text()
    listed = re.findall(r'^\| `([\w.]+)` \|', page, re.MULTILINE)
    assert sorted(listed) == sorted(ALLOWED)
