"""The wheel as a MIM package, and our configs as bases of a project elsewhere."""

import os
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def wheel(tmp_path_factory, root, run) -> Path:
    """The wheel, built from a copy of what git tracks, so that stale builds cannot help."""
    source = tmp_path_factory.mktemp('source') / 'mmsifa'
    files = run('git', 'ls-files', '--cached', '--others', '--exclude-standard').stdout.splitlines()
    for name in filter(lambda name: (root / name).is_file(), files):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    out = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', out]
    run(sys.executable, '-m', 'pip', 'wheel', *options, source, cwd=out)
    return next(out.glob('mmsifa-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory, run):
    """An environment in which the wheel hides the checkout."""
    target = tmp_path_factory.mktemp('site')
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', target, wheel, cwd=target)
    return dict(os.environ, PYTHONPATH=str(target), PYTHONWARNINGS='ignore'), target


@pytest.fixture
def project(tmp_path) -> Path:
    """Somebody's project with one config that inherits from ours."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmsifa::sifa_r50_k400.py'\n\n"
        'model = dict(cls_head=dict(num_classes=7), backbone=dict(pretrained=None))\n'
    )
    return tmp_path


def test_wheel_carries_configs_tools_and_model_index(wheel, root, run):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run('git', 'ls-files', '--cached', '--others', '--exclude-standard').stdout.split()
    expected = {n for n in tracked if n.startswith(('configs/', 'tools/')) and (root / n).exists()}
    assert len(expected) > 15
    assert {f'mmsifa/.mim/{name}' for name in (*expected, 'model-index.yml')} <= names
    assert {n for n in tracked if n.startswith('mmsifa/') and (root / n).exists()} <= names
    assert not any(name.startswith(('tests', 'build')) or '__pycache__' in name for name in names)


def test_mim_lists_the_models(installed, run, tmp_path):
    env, _ = installed
    listing = run('mim', 'search', 'mmsifa', cwd=tmp_path, env=env).stdout
    assert 'sifa_r50_k400' in listing
    assert 'sifa_tiny_motion' in listing
    listing = run(
        'mim', 'search', 'mmsifa', '--field', 'architecture', cwd=tmp_path, env=env
    ).stdout
    assert 'sifanet-101' in listing


def test_wheel_shows_its_configs_to_other_projects(installed, run, project):
    env, target = installed
    for command in (
        ['python', '-m', 'mmsifa.run', 'print_config', 'mine.py'],
        ['mim', 'train', 'mmsifa', 'mine.py', '--cfg-options', 'train_cfg.max_epochs=0'],
    ):
        done = run(*command, cwd=project, env=env, check=command[0] == 'python')
        assert 'num_classes=7' in done.stdout
        assert "type='SIFANet'" in done.stdout
    assert str(target) in done.stdout  # it ran the installed train.py


def test_checkout_shows_its_configs_to_other_projects(root, run, project):
    env = dict(os.environ, PYTHONPATH=str(root), PYTHONWARNINGS='ignore')
    done = run('python', '-m', 'mmsifa.run', 'print_config', 'mine.py', cwd=project, env=env)
    assert 'num_classes=7' in done.stdout


def test_every_name_that_a_wrong_base_could_have_meant_is_listed(root, run, project):
    (project / 'typo.py').write_text("_base_ = 'mmsifa::sifa_r50_k40.py'\n")
    env = dict(os.environ, PYTHONPATH=str(root), PYTHONWARNINGS='ignore')
    command = ['python', '-m', 'mmsifa.run', 'print_config', 'typo.py']
    done = run(*command, cwd=project, env=env, check=False)
    assert done.returncode
    assert 'sifa_r50_k400.py' in done.stdout


def test_a_missing_package_is_named_with_the_way_to_get_it(run, root):
    hide = "import sys; sys.modules['mmcv'] = None; import mmsifa"
    done = run('python', '-c', hide, check=False)
    assert 'but mmcv is not installed' in done.stdout
    advice = done.stdout.split('pip install --no-deps ')[1].split(' && ')[0].split()
    assert len(advice) == 3
    assert set(advice) <= set((root / 'constraints.txt').read_text().split())
