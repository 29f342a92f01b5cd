"""What needs no MMAction2 works where there is none: with torch, numpy and pytest alone."""

import os
import re

import pytest

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
    return os.environ | dict(PYTHONPATH=path, PYTEST_DISABLE_PLUGIN_AUTOLOAD='1')


def test_the_page_trains_a_step(alone, run, root, tmp_path):
    page = (root / 'docs/own_model.md').read_text()
    first, second = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    done = run('python', '-W', 'ignore', '-c', first, env=alone, cwd=tmp_path)
    assert re.fullmatch(r'loss \d\.\d{3}\n', done.stdout)
    run('python', '-W', 'ignore', '-c', second, env=alone, cwd=tmp_path)


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
        assert 'needs MMEngine, MMCV and MMAction2, but mmengine, mmcv, mmaction is not' in said
        assert 'pip install --no-deps mmengine' in said
    assert 'no attribute' in run(
        'python', '-c', 'import mmsifa; mmsifa.modls', env=alone, cwd=tmp_path, check=False
    ).stdout  # fmt: skip


def test_the_tests_of_the_op_pass(alone, run, root, tmp_path):
    command = ['python', '-m', 'pytest', '-q', '-p', 'no:cacheprovider', root / 'tests/ops']
    done = run(*command, '--rootdir', root, env=alone, cwd=tmp_path)
    assert re.search(r'\d\d+ passed', done.stdout)
