"""A checkpoint is refused before it is built if it lies, or names what is not allowed."""

import copy
import json
import os
import re
from pathlib import Path

import hostile_checkpoints as hostile
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa.checkpoints import policy, scan
from mmsifa.checkpoints.load import CheckpointError
from mmsifa.checkpoints.policy import ALLOWED

ROOT = Path(__file__).parents[2]

GIGABYTE = 2**30

MEASURE = """
import json, resource, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import hostile_checkpoints as hostile
import mmsifa
from mmengine.runner.checkpoint import CheckpointLoader

pages = int(Path('/proc/self/statm').read_text().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
errors = {}
for name in hostile.REASONS:
    path = Path(name, 'hostile.pth')
    before = sorted(path.parent.iterdir())
    try:
        CheckpointLoader.load_checkpoint(str(path), 'cpu')
        errors[name] = 'loaded'
    except Exception as error:
        errors[name] = f'{type(error).__name__}: {error}'
    assert sorted(path.parent.iterdir()) == before, name
status = Path('/proc/self/status').read_text()  # ru_maxrss would count the process that forked
peak = int(status.split('VmHWM:')[1].split()[0]) * 1024
json.dump(dict(errors=errors, peak=peak), open('errors.json', 'w'))
"""


@pytest.fixture(scope='module')
def refusals(tmp_path_factory, run):
    """What loading says of every hostile file, in a process that may take a gigabyte more."""
    folder = tmp_path_factory.mktemp('hostile')
    for name in hostile.REASONS:
        (folder / name).mkdir()
        hostile.write(name, folder / name / 'hostile.pth')
    (folder / 'measure.py').write_text(MEASURE)
    run(
        'python',
        'measure.py',
        ROOT / 'tests' / 'helpers',
        cwd=folder,
        env=os.environ | {'PYTHONPATH': ROOT},
    )
    return json.loads((folder / 'errors.json').read_text())


@pytest.mark.parametrize('name', hostile.REASONS)
def test_a_file_that_lies_is_refused_in_one_sentence(refusals, name):
    error = refusals['errors'][name]
    reason = hostile.REASONS[name]
    assert re.match(rf'CheckpointError: refused to load .*hostile\.pth: ({reason})', error)
    assert '\n' not in error
    assert ', expected tensors, numbers, strings and MMEngine' in error
    assert error.endswith('otherwise fetch it again or do not use it')


def test_refusing_takes_less_than_a_gigabyte(refusals):
    assert refusals['peak'] < GIGABYTE


def test_torch_alone_believes_what_a_file_claims(tmp_path):
    """The scan is needed: under ``weights_only=True`` these small files load."""
    path = tmp_path / 'hostile.pth'
    hostile.write('expanded-view', path)
    assert torch.load(path, weights_only=True)['message_hub'].numel() == 2**40
    hostile.save(hostile.Call(bytearray, 10**7), path)
    assert len(torch.load(path, weights_only=True)['message_hub']) == 10**7
    hostile.save(hostile.hex_of_hex(20), path)
    assert len(torch.load(path, weights_only=True)['message_hub']) == 8 * 2**20
    assert path.stat().st_size < 10**4


def test_the_getattr_attack_works_where_getattr_is_allowed(tmp_path):
    marker = tmp_path / hostile.MARKER
    hostile.write('getattr', tmp_path / 'a.pth')
    with torch.serialization.safe_globals([getattr, HistoryBuffer]):
        content = torch.load(tmp_path / 'a.pth', weights_only=True)['message_hub']
    assert not marker.exists()
    copy.deepcopy(content)
    assert marker.exists()


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


@pytest.mark.parametrize('name', sorted(policy.STAND_INS))
def test_torch_needs_every_stand_in(name, usual_files, monkeypatch):
    monkeypatch.delitem(policy.STAND_INS, name)
    errors = errors_of(usual_files)
    assert errors
    assert all(name.removeprefix('builtins.') in error for error in errors)


def test_records_have_sizes_where_torch_does_not_tell_them(usual_files, tmp_path, monkeypatch):
    class Before213:
        def __init__(self, file):
            reader = torch_reader(file)
            self.get_all_records, self.get_record = reader.get_all_records, reader.get_record

    torch_reader = torch._C.PyTorchFileReader
    monkeypatch.setattr(torch._C, 'PyTorchFileReader', Before213)
    with open(next(path for path in usual_files if path.name == 'weights.pth'), 'rb') as file:
        scan.scan(file)
    hostile.write('storage-beyond-its-record', tmp_path / 'hostile.pth')
    with (
        open(tmp_path / 'hostile.pth', 'rb') as file,
        pytest.raises(scan.NotAllowed, match='it claims a storage of 4294967292 bytes in one of'),
    ):
        scan.scan(file)


def test_the_page_lists_what_is_allowed():
    page = (ROOT / 'docs/checkpoints.md').read_text()
    listed = re.findall(r'^\| `([\w.]+)` \|', page, re.MULTILINE)
    assert sorted(listed) == sorted(ALLOWED)
