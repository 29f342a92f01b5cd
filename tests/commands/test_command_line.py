"""``mmsifa COMMAND``: help without heavy imports, and commands really run on small data."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from mmengine.fileio import load

from mmsifa import installation
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
    ('words', 'expected'),
    [
        (['pred'], 'predict'),
        (['export', '--with-p'], '--with-preprocess'),
        (['export', 'comp'], 'completion'),
        (['predict', 'a.mp4', '--checkpoint', 'comp'], 'completion'),
    ],
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


def test_prints_what_installs_the_missing_packages(capsys, monkeypatch, root):
    def printed(*missing):
        monkeypatch.setattr(installation, 'find_spec', lambda name: name not in missing or None)
        with pytest.raises(SystemExit, match=r'^0$'):
            main(['--mmaction2'])
        return capsys.readouterr().out.split('\n')[:-1]

    pip = f'{sys.executable} -m pip install'
    beside, alone = printed(*installation._BESIDE, *installation.ALONE)
    assert beside == f"{pip} 'mmsifa[mmaction2,mim]' opencv-python-headless decord2"
    pinned = alone.removeprefix(f'{pip} --no-deps ').split()
    assert len(pinned) == 3
    assert {*pinned} < {*(root / 'constraints.txt').read_text().split()}
    assert printed('decord', 'pip') == [f'uv pip install --python {sys.executable} decord2']
    assert not ''.join(printed())


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


# A package that imports ours with a stand-in for what registers, which imports MMAction2.
OTHER = """
import sys
from unittest.mock import Mock
engine = sys.modules['mmsifa.engine'] = Mock()
"""


@pytest.mark.parametrize('name', ['mmsifa', 'mmsifa.ops'])
def test_whoever_else_imports_the_package_has_all_registered(name, root, tmp_path):
    """Also where Python looks for a module to run, as it does for ours, and for words like it."""
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/__init__.py').write_text(OTHER + f'import {name}')
    (tmp_path / 'other/__main__.py').write_text('import other; print(other.engine.method_calls)')
    env = {'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'}
    command = [sys.executable, '-m', 'other', 'mmsifa']
    done = subprocess.check_output(command, env=env, text=True)
    assert done == '[call.register_op(), call.register_all_modules()]\n'


def test_options_are_those_of_what_they_are_for():
    arguments = ['export', 'config', 'checkpoint', 'out.onnx']
    assert make_parser().parse_args(arguments).tolerance == TOLERANCE
    for dtype in DTYPES:
        assert make_parser().parse_args(['report', '--dtype', dtype]).dtype == dtype


CONFIG = 'configs/sifa_tiny_motion.py'
SMALL = [
    'model.backbone.base_channels=8',
    'model.backbone.stage_blocks=(1,2,1,1)',
    'model.cls_head.in_channels=256',
    'train_dataloader.batch_size=8',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='module')
def options(motion_data):
    """The --cfg-options for a small network on the small data."""
    lines = []
    for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = f'{split}_dataloader.dataset'
        lines += [
            f'{dataset}.ann_file={motion_data}/{part}_list_videos.txt',
            f'{dataset}.data_prefix.video={motion_data}/videos_{part}',
            f'{split}_dataloader.num_workers=0',
        ]
    return [*SMALL, *lines]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run, options):
    """A work folder after one epoch."""
    out = tmp_path_factory.mktemp('work')
    epoch = [*options, 'train_cfg.max_epochs=1']
    run('mmsifa', 'run', 'train', CONFIG, '--work-dir', out, '--cfg-options', *epoch)
    return out


def test_train_leaves_checkpoint_and_log(trained):
    assert (trained / 'epoch_1.pth').is_file()
    lines = [json.loads(line) for line in next(trained.glob('*/vis_data/scalars.json')).open()]
    assert sum('loss' in line for line in lines) == 2
    assert 0 <= lines[-1]['acc/top1'] <= 1


def test_resume_goes_on_where_it_stopped(trained, tmp_path, run, options):
    work = tmp_path / 'work'
    shutil.copytree(trained, work)
    two = [*options, 'train_cfg.max_epochs=2']
    text = run('mmsifa', 'run', 'train', CONFIG, '--work-dir', work, '--resume', '--cfg-options',
               *two).stdout  # fmt: skip
    assert 'resumed epoch: 1, iter: 2' in text
    assert re.search(r'Epoch\(train\) +\[2\]\[2/2\]', text)
    assert not re.search(r'Epoch\(train\) +\[1\]', text)
    assert (work / 'epoch_2.pth').is_file()


def test_test_dumps_a_score_for_every_clip(trained, tmp_path, run, options):
    dump = tmp_path / 'predictions.pkl'
    text = run('mmsifa', 'run', 'test', CONFIG, trained / 'epoch_1.pth', '--dump', dump,
               '--work-dir', tmp_path, '--cfg-options', *options).stdout  # fmt: skip
    predictions = load(str(dump))
    assert len(predictions) == 9
    right = [int(p['pred_score'].argmax() == p['gt_label']) for p in predictions]
    assert f'acc/top1: {sum(right) / 9:.4f}' in text
    for prediction in predictions:
        assert prediction['pred_score'].shape == (8,)
        assert prediction['pred_score'].sum().item() == pytest.approx(1)

    picture = tmp_path / 'confusion.png'
    run('mmsifa', 'run', 'confusion_matrix', CONFIG, dump, '--show-path', picture)
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_testing_another_models_weights_is_refused(trained, tmp_path, run, options):
    wider = [*options, 'model.backbone.base_channels=16', 'model.cls_head.in_channels=512']
    done = run('mmsifa', 'run', 'test', CONFIG, trained / 'epoch_1.pth', '--dump',
               tmp_path / 'predictions.pkl', '--work-dir', tmp_path, '--cfg-options', *wider,
               check=False)  # fmt: skip
    assert done.returncode
    assert re.search(
        r'refused to load the checkpoint \S*epoch_1.pth: it holds the weights of '
        r'another model, since of \d+ weights \d+ of another shape \(backbone.*\); give the config',
        done.stdout,
    )
    assert not (tmp_path / 'predictions.pkl').exists()


def test_amp_trains_on_any_device(tmp_path, run, options):
    epoch = [*options, 'train_cfg.max_epochs=1']
    text = run('mmsifa', 'run', 'train', CONFIG, '--amp', '--work-dir', tmp_path, '--cfg-options',
               *epoch).stdout  # fmt: skip
    assert 'AmpOptimWrapper' in text
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_learning_curve_needs_a_run(trained, tmp_path, run):
    run('mmsifa', 'plot', trained, '--out', tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')
    done = run('mmsifa', 'plot', tmp_path, check=False)
    assert done.returncode == 1
    assert 'holds no training run: expected TIME/vis_data/scalars.json' in done.stdout
    for options, said in (
        (['--metric', 'nope'], 'no metric nope, what it validated is: acc/'),
        (['--out', tmp_path / 'x.foo'], "Format 'foo' is not supported"),
        (['--out', tmp_path / 'none/x.png'], 'No such file or directory'),
    ):
        done = run('mmsifa', 'plot', trained, *options, check=False)
        assert (done.returncode, 'Traceback' in done.stdout) == (1, False)
        assert said in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['curve.png']


def test_mmaction2s_inference_api_works(trained, motion_data):
    from mmaction.apis import MMAction2Inferencer

    config = str(next(trained.glob('*.py')))
    inferencer = MMAction2Inferencer(
        config, rec_weights=str(trained / 'epoch_1.pth'), device='cpu',
        label_file=str(motion_data / 'label_map.txt')
    )  # fmt: skip
    video = str(next((motion_data / 'videos_val').glob('*.mp4')))
    result = inferencer(video)['predictions'][0]
    assert len(result['rec_scores'][0]) == 8
    assert sys.modules['mmsifa']
