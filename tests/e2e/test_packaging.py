"""What an installation has; what needs PyTorch alone works where the other packages are missing."""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def source(tmp_path_factory, root, run) -> Path:
    """A copy of what git tracks, so that stale builds cannot help."""
    source = tmp_path_factory.mktemp('source') / 'mmsifa'
    files = run('git', 'ls-files', '--cached', '--others', '--exclude-standard').stdout.splitlines()
    for name in filter(lambda name: (root / name).is_file(), files):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    return source


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory, run) -> Path:
    """The wheel, built in an environment with PyTorch and a compiler."""
    out = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', out]
    env = dict(os.environ, CXXFLAGS='-O0')  # sooner done
    run(sys.executable, '-m', 'pip', 'wheel', *options, source, cwd=out, env=env)
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
    (metadata,) = (name for name in names if name.endswith('.dist-info/METADATA'))
    requires = re.findall(
        '^Requires-Dist: (.*)', zipfile.ZipFile(wheel).read(metadata).decode(), re.M
    )
    assert [name for name in requires if 'extra ==' not in name] == ['torch>=2.6']
    kinds = ('.py', '.typed', '.txt', '.html', '.css', '.js')
    package = [n for n in tracked if n.startswith('mmsifa/') and n.endswith(kinds)]
    assert {n for n in package if (root / n).exists()} <= names
    assert not any(
        name.startswith(('tests', 'build', 'projects', 'study')) or '__pycache__' in name
        for name in names
    )


def test_mim_lists_the_models(installed, run, tmp_path):
    env, _ = installed
    listing = run('mim', 'search', 'mmsifa', cwd=tmp_path, env=env).stdout
    assert 'sifa_r50_k400' in listing
    assert 'sifa_tiny_motion' in listing
    listing = run(
        'mim', 'search', 'mmsifa', '--field', 'architecture', cwd=tmp_path, env=env
    ).stdout
    assert 'sifa-net r101' in listing


def test_wheel_shows_its_configs_to_other_projects(installed, run, forked, project):
    env, target = installed
    for command in (
        ['env', 'python', target / 'bin/mmsifa', 'run', 'print_config', 'mine.py'],
        ['env', 'python', '-m', 'mmsifa', 'run', 'print_config', 'mine.py'],
        ['mim', 'train', 'mmsifa', 'mine.py', '--cfg-options', 'train_cfg.max_epochs=0'],
    ):
        path = env['PATH'] if command[0] == 'mim' else forked['PATH']
        done = run(*command, cwd=project, env=env | {'PATH': path}, check=command[0] != 'mim')
        assert 'num_classes=7' in done.stdout
        assert "type='SIFANet'" in done.stdout
    assert str(target) in done.stdout  # it ran the installed train.py


def test_checkout_shows_its_configs_to_other_projects(root, run, forked, project):
    env = dict(forked, PYTHONPATH=str(root), PYTHONWARNINGS='ignore')
    command = ['env', 'python', '-m', 'mmsifa', 'run', 'print_config']
    assert 'num_classes=7' in run(*command, 'mine.py', cwd=project, env=env).stdout


def test_a_checkout_that_is_only_on_the_path_finds_its_configs(source, run, forked, project):
    code = (
        "from mmsifa.apis import load_config; print(load_config('sifa_r50_k400').filename); "
        "print(load_config('mine.py').model.cls_head.num_classes); load_config('sifa_r50_k40')"
    )
    env = dict(forked, PYTHONPATH=str(source), PYTHONWARNINGS='ignore')
    done = run('env', 'python', '-c', code, cwd=project, env=env, check=False)
    assert f'{source}/configs/sifa_r50_k400.py\n7\n' in done.stdout
    assert 'no config sifa_r50_k40: expected a file, one of mmsifa (sifa_r101_32f' in done.stdout


def test_every_name_that_a_wrong_base_could_have_meant_is_listed(run, forked, project):
    (project / 'typo.py').write_text("_base_ = 'mmsifa::sifa_r50_k40.py'\n")
    command = ['env', 'mmsifa', 'run', 'print_config', 'typo.py']
    done = run(*command, cwd=project, env=forked, check=False)
    assert done.returncode
    assert 'sifa_r50_k400.py' in done.stdout


def test_a_missing_package_is_named_with_the_way_to_get_it(run):
    hide = "import sys; sys.modules['mmcv'] = None; from mmsifa.models import SIFANet"
    done = run('python', '-c', hide, check=False)
    needs = 'mmsifa.models.SIFANet needs MMEngine, MMCV, MMAction2 and mmsifa[mmaction2], but '
    assert f'{needs}mmcv is not installed' in done.stdout
    assert done.stdout.endswith("'mmsifa --mmaction2 | bash' runs them\n")


def test_beside_mmaction2_without_the_extra_the_op_works_and_the_extra_is_named(run):
    code = (
        "import sys; sys.modules['av'] = None; from mmsifa.ops import inter_frame_attention; "
        'from mmsifa.models import SIFANet'
    )
    done = run('python', '-c', code, check=False)
    missing = 'and mmsifa[mmaction2], but av is not installed: '
    first, *_, last = [line for line in done.stdout.splitlines() if missing in line]
    assert 'UserWarning: to register with MMAction2 mmsifa needs' in first
    assert last.startswith('ImportError: mmsifa.models.SIFANet needs')
    assert "'mmsifa --mmaction2' prints the commands" in last


def test_the_command_is_there_where_nothing_else_is_installed(wheel, run, tmp_path):
    venv = tmp_path / 'venv'
    run(sys.executable, '-m', 'venv', '--without-pip', venv)
    run(sys.executable, '-m', 'pip', '--python', venv, 'install', '--no-deps', wheel)
    for command in ([], ['predict']):
        done = run(venv / 'bin/mmsifa', *command, '--help', cwd=tmp_path, env={})
        assert done.stdout.startswith('usage: mmsifa')
    network = ['--config', 'r50', '--checkpoint', 'r50.pth', '--cfg-options', 'a=1']
    done = run(venv / 'bin/mmsifa', 'predict', 'a.mp4', *network, cwd=tmp_path, env={}, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith('mmsifa predict: this command needs MMEngine, MMCV, MMAction2')
    assert done.stdout.count('\n') == 1
    done = run(venv / 'bin/mmsifa', 'plot', tmp_path, cwd=tmp_path, env={}, check=False)
    assert done.stdout == 'mmsifa plot: this command needs Matplotlib: pip install matplotlib\n'


def test_wheel_has_the_compiled_kernels(wheel, installed, run, forked, tmp_path):
    assert wheel.name.split('-')[2:4] == ['cp310', 'abi3']
    _, target = installed
    env = forked | {'PYTHONPATH': str(target)}
    code = (
        'import torch; from mmsifa.ops import BACKENDS, cpu; print(cpu.LIBRARY); '
        'assert BACKENDS["cpu"].unsupported_reason(torch.ones(1, 1, 1, 1, 1)) is None'
    )
    assert str(target) in run('env', 'python', '-c', code, cwd=tmp_path, env=env).stdout


def test_the_kernels_ask_for_the_stable_abi_alone(installed, run):
    (library,) = (installed[1] / 'mmsifa/ops').glob('_cpu.*')
    symbols = run('nm', '-DC', '--undefined-only', library).stdout.split('\n')
    names = [line.split('U ', 1)[-1].strip() for line in symbols if ' U ' in line]
    assert {'torch_parallel_for', 'torch_library_impl', 'aoti_torch_get_size'} <= set(names)
    unstable = ('at::', 'c10::', 'torch::', 'pybind11::', 'Py', '_Py')
    assert not [name for name in names if name.startswith(unstable) or ' c10::' in name]


@pytest.mark.parametrize('lacks', ['compiler', 'torch'])
def test_installs_without_the_kernels_and_says_how_to_get_them(
    lacks, source, run, forked, tmp_path
):
    env = dict(os.environ, CC='no-such-compiler', CXX='no-such-compiler')
    if lacks == 'torch':
        (tmp_path / 'torch.py').write_text('raise ImportError("hidden by a test")\n')
        env = dict(os.environ, PYTHONPATH=str(tmp_path))
    shutil.rmtree(source / 'build', ignore_errors=True)  # or pip would find the compiled ones
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', tmp_path]
    log = run(sys.executable, '-m', 'pip', 'wheel', '-v', *options, source, cwd=tmp_path, env=env)
    assert log.stdout.count('mmsifa is installed without its fast CPU kernels') == 1
    assert 'To get them, install a C++ compiler and repeat' in log.stdout
    (wheel,) = tmp_path.glob('mmsifa-*.whl')
    assert wheel.name.endswith('none-any.whl') == (lacks == 'torch')

    site = tmp_path / 'site'
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        'import torch; from mmsifa.ops import inter_frame_attention as attend; '
        'x = torch.ones(1, 2, 4, 5, 5); print(attend(x, x, torch.zeros(1, 2, 18, 5, 5)).sum())'
    )
    env = dict(forked, PYTHONPATH=str(site))
    result = run('env', 'python', '-c', code, cwd=site, env=env)
    assert 'tensor(' in result.stdout
    assert "run 'pip install --force-reinstall --no-deps" in result.stdout


HIDDEN = (
    *('mmengine', 'mmcv', 'mmaction', 'mmpretrain', 'einops', 'triton', 'torchvision', 'timm'),
    *('transformers', 'cv2', 'decord', 'av', 'PIL', 'scipy', 'matplotlib', 'rich', 'yaml'),
    *('hypothesis', 'onnx', 'onnxruntime', 'onnxscript', 'tensorboard', 'moviepy', 'xdist'),
)


@pytest.fixture
def alone(tmp_path, root):
    """An environment whose other packages cannot be imported."""
    hide = f'import sys\nsys.modules.update(dict.fromkeys({HIDDEN}))\n'
    (tmp_path / 'sitecustomize.py').write_text(hide)
    path = os.pathsep.join([str(tmp_path), str(root)])
    return os.environ | dict(
        PYTHONPATH=path, PYTEST_DISABLE_PLUGIN_AUTOLOAD='1', MMSIFA_NEEDS=''
    )  # where CI has Triton, this has not


def test_the_page_trains_a_step(alone, run, root, tmp_path):
    page = (root / 'docs/own_model.md').read_text()
    without_numpy = 'import sys; sys.modules["numpy"] = None\n'  # about which PyTorch warns
    snippets = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert len(snippets) == 2
    assert len([line for line in snippets[0].splitlines() if line.strip()]) <= 20
    code = f'{without_numpy}for snippet in {snippets}: exec(snippet, {{}})'
    done = run('python', '-W', 'ignore', '-c', code, env=alone, cwd=tmp_path)
    assert re.fullmatch(r'loss \d\.\d{3}\n', done.stdout)


def test_what_needs_mmaction2_says_so_in_a_sentence(alone, run, tmp_path):
    for asked in (
        'from mmsifa.models import SIFANet',
        'import mmsifa; mmsifa.models.SIFAHead',
        'import mmsifa.apis',
        'import mmsifa; mmsifa.datasets',
    ):
        done = run('python', '-c', asked, env=alone, cwd=tmp_path, check=False)
        assert done.returncode
        *_, said = done.stdout.splitlines()
        assert said.startswith('ImportError: mmsifa.')
        needs = 'needs MMEngine, MMCV, MMAction2 and mmsifa[mmaction2], but mmengine, mmcv, '
        assert f'{needs}mmaction, av, cv2 is not installed' in said
    assert 'no attribute' in run(
        'python', '-c', 'import mmsifa; mmsifa.modls', env=alone, cwd=tmp_path, check=False
    ).stdout  # fmt: skip


ONE_EACH = """
import re
import pytest

@pytest.hookimpl(trylast=True)  # after the slow ones are left out
def pytest_collection_modifyitems(items):
    cases = {}
    for item in items:
        cases.setdefault((item.function, *re.findall('cpu|mmcv|reference', item.name)), item)
    items[:] = cases.values()
"""


def test_the_tests_of_the_op_pass(alone, run, root, tmp_path):
    """One case of each test and backend: where it imports what is not there, all cases do."""
    (tmp_path / 'one_each.py').write_text(ONE_EACH)
    command = ['python', '-m', 'pytest', '-q', '-p', 'no:cacheprovider', root / 'tests/ops']
    options = ('-p', 'one_each', '-m', 'not slow', '--rootdir', root)
    done = run(*command, *options, env=alone, cwd=tmp_path)
    assert re.search(r'\d\d+ passed', done.stdout)
