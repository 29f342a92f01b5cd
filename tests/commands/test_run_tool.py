"""``mmsifa run``: finding MMAction2's tools, and running them in this process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmsifa.__main__ import main
from mmsifa.checkpoints.load import CheckpointError
from mmsifa.commands import run_tool as run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('train', 'tools/train.py'),
        ('train.py', 'tools/train.py'),
        ('confusion_matrix', 'analysis_tools/confusion_matrix.py'),
        ('kinetics/download', 'data/kinetics/download.py'),
    ],
)
def test_a_tool_is_found_by_name(name, path):
    assert run.find_tool(name).as_posix().endswith(f'/{path}')


def test_an_unknown_tool_lists_what_exists():
    expected = "no tool is named 'trian', expected one of: .*confusion_matrix.*, train"
    with pytest.raises(ValueError, match=expected):
        run.find_tool('trian')


def test_an_ambiguous_name_lists_the_candidates():
    expected = "several tools are named 'download', expected one of: (data/[a-z_]+/download(, )?)+$"
    with pytest.raises(ValueError, match=expected):
        run.find_tool('download')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '^usage: mmsifa run .* TOOL'),
        (['trian'], '^mmsifa run: no'),
    ],
)
def test_the_command_line_explains_itself(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['run', *arguments])
    said = capsys.readouterr().err if ended.value.code == 2 else ended.value.code
    assert re.search(message, said)
    assert ended.value.code


def test_help_is_not_an_error(capsys):
    with pytest.raises(SystemExit, match=r'^0$'):
        main(['run', '--help'])
    assert capsys.readouterr().out.startswith('usage: mmsifa run')


def test_the_help_of_a_tool_is_its_own(capsys):
    with pytest.raises(SystemExit, match=r'^0$'):
        main(['run', 'print_config', '--help'])
    assert capsys.readouterr().out.startswith('usage: print_config.py')


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A tool that uses a module beside it, as python would let it, and fails when asked to."""
    (tmp_path / 'beside.py').write_text("word = 'found'")
    path = tmp_path / 'tool.py'
    path.write_text(
        'import json, sys\n'
        'import beside\n'
        'print(json.dumps([__name__, __file__, sys.argv, sys.path[0], beside.word]))\n'
        "if 'fail' in sys.argv:\n"
        "    raise KeyError('failed')\n"
    )
    monkeypatch.setattr(run, 'find_tool', lambda name: path)
    return path


def test_a_tool_runs_as_under_python(tool, capsys):
    run.run_tool('tool', ['--option', '1'])
    here = json.loads(capsys.readouterr().out)
    python = subprocess.check_output([sys.executable, str(tool), '--option', '1'], text=True)
    assert here == json.loads(python)


def test_a_failing_tool_leaves_no_trace(tool):
    before = list(sys.argv), list(sys.path)
    with pytest.raises(KeyError, match='failed'):
        run.run_tool('tool', ['fail'])
    assert (sys.argv, sys.path) == before


@pytest.mark.skipif(not shutil.which('sha256sum'), reason='publish_model calls sha256sum')
def test_publish_model_reads_a_checkpoint_of_mmengine(tmp_path):
    history = {'log_scalars': {'loss': HistoryBuffer([0.5], [1])}}
    torch.save({'state_dict': {'x': torch.ones(2)}, 'message_hub': history}, tmp_path / 'in.pth')
    run.run_tool('publish_model', [str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')])
    (published,) = tmp_path.glob('out_*.pth')
    assert torch.load(published)['state_dict']['x'].tolist() == [1, 1]


def test_publish_model_refuses_a_hostile_file(tmp_path):
    class Command:
        def __reduce__(self):
            return os.system, (f'echo > {tmp_path / "ran"}',)

    torch.save(Command(), tmp_path / 'in.pth')
    with pytest.raises(CheckpointError, match=r'in\.pth: it asks for \w+\.system'):
        run.run_tool('publish_model', [str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')])
    assert not (tmp_path / 'ran').exists()


@pytest.mark.slow
def test_a_tool_that_imports_the_models_first_starts(tmp_path):
    arguments = ['-m', 'mmsifa', 'run', 'confusion_matrix', '--help']
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'usage: confusion_matrix.py' in done.stdout
