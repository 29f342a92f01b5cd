"""``mmsifa COMMAND``: its help, and that nothing heavy is imported before arguments are read."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from mmsifa.__main__ import COMMANDS, main, make_parser
from mmsifa.apis.analysis import DTYPES
from mmsifa.apis.export.exporter import TOLERANCE


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit, match=r'^0$'):
        main([*arguments, '--help'])
    return capsys.readouterr().out


def test_help_lists_the_commands_in_one_screen(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    text = help_of(capsys)
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 80
    assert re.findall(r'^    ([a-z-]+)', text, flags=re.MULTILINE) == [*COMMANDS]


@pytest.mark.parametrize('command', COMMANDS)
def test_each_help_has_an_example_that_can_be_typed(command, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    text, _, example = help_of(capsys, command).partition('\nexample:\n\n')
    assert text.startswith(f'usage: mmsifa {command} ')
    lines = [shlex.split(line) for line in example.splitlines()]
    assert lines[0][:2] == ['mmsifa', command]
    assert max(map(len, example.splitlines())) <= 80
    for line in lines:
        make_parser().parse_args(line[line.index('mmsifa') + 1 :])


@pytest.mark.parametrize(
    ('words', 'expected'), [(['pre'], 'predict'), (['export', '--with-p'], '--with-preprocess')]
)
def test_bash_completes_words(words, expected, run, tmp_path):
    (tmp_path / 'completion').write_text(run('mmsifa', '--completion', 'bash').stdout)
    script = """
    source completion
    COMP_WORDS=(mmsifa "$@") COMP_CWORD=$# COMP_LINE="mmsifa $*" COMP_POINT=${#COMP_LINE}
    _shtab_mmsifa mmsifa "${@: -1}"
    echo "${COMPREPLY[@]}"
    """
    done = run('bash', '-c', script, 'bash', *words, cwd=tmp_path)
    assert done.stdout.split() == [expected]


def test_a_word_that_is_no_command_is_named(capsys):
    with pytest.raises(SystemExit, match=r'^2$'):
        main(['predcit'])
    assert "invalid choice: 'predcit'" in capsys.readouterr().err


HEAVY = {'torch', 'numpy', 'rich', 'matplotlib', 'cv2', 'av', 'mmengine', 'mmcv', 'mmaction'}
IMPORTED = """
import atexit, sys
atexit.register(lambda: print(*sys.modules))
"""


@pytest.mark.parametrize('command', [[], *([command] for command in COMMANDS)], ids=' '.join)
@pytest.mark.parametrize('program', ['-c', '-m'])
def test_help_needs_the_standard_library_alone(program, command, root, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(IMPORTED)
    code = 'from mmsifa_command import main; main()'
    done = subprocess.run(
        [sys.executable, program, code if program == '-c' else 'mmsifa', *command, '--help'],
        env={'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('usage: ')
    assert not HEAVY & {*done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize('name', ['mmsifa', 'mmsifa.ops'])
def test_whoever_else_imports_the_package_has_all_registered(name, root, tmp_path):
    """Also where Python looks for a module to run, as it does for ours, and for words like it."""
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/__init__.py').write_text(f'import {name}')
    (tmp_path / 'other/__main__.py').write_text(
        "from mmaction.registry import MODELS; assert 'SIFANet' in MODELS"
    )
    env = {'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'}
    subprocess.run([sys.executable, '-m', 'other', 'mmsifa'], env=env, check=True)


def test_options_are_those_of_what_they_are_for():
    arguments = ['export', 'config', 'checkpoint', 'out.onnx']
    assert make_parser().parse_args(arguments).tolerance == TOLERANCE
    for dtype in DTYPES:
        assert make_parser().parse_args(['report', '--dtype', dtype]).dtype == dtype
