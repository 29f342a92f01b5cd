"""The documentation's commands, run as written, and its examples of configs."""

import os
import sys
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def after_quickstart(tmp_path_factory, motion_data):
    """A folder as the quickstart leaves it, with a network that was not trained."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'docs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'data').mkdir()
    (folder / 'data/motion').symlink_to(motion_data)
    (folder / 'work_dirs/quickstart').mkdir(parents=True)
    init_default_scope('mmaction')
    model = MODELS.build(Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py').model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'work_dirs/quickstart/epoch_5.pth')
    return folder


@pytest.fixture(scope='module')
def environment():
    """The variables in which ``mim`` and ``python`` are those of the tests."""
    return os.environ | {'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}


def test_commands_print_what_the_page_says(after_quickstart, environment, run):
    command = ['python', 'tools/run_docs.py', 'docs/mmaction2.md', '--check']
    run(*command, cwd=after_quickstart, env=environment)
    for result in ('browse/video_1.mp4', 'cam.gif', 'confusion_matrix.png'):
        assert (after_quickstart / 'work_dirs' / result).stat().st_size > 1000


def test_run_docs_fills_in_and_notices_changes(tmp_path, environment, run):
    page = tmp_path / 'page.md'
    block = '```bash\n{}\n```\n\n<!-- output: tail -n 1 -->\n```text\n{}\n```\n'
    page.write_text('# Page\n\n' + block.format('echo 1; echo 22 apples', 'none'))
    tool = ['python', 'tools/run_docs.py', page]
    done = run(*tool, '--check', check=False, env=environment)
    assert done.returncode == 1
    assert 'no longer print\n\nnone\n\nbut\n\n22 apples' in done.stdout
    run(*tool, env=environment)
    assert '```text\n22 apples\n```' in page.read_text()
    page.write_text(page.read_text().replace('22', '7'))
    run(*tool, '--check', env=environment)

    page.write_text(block.format('echo before; false', 'before'))
    done = run(*tool, check=False, env=environment)
    assert done.returncode == 1
    assert 'ended with 1:\n\necho before; false' in done.stdout
    page.write_text('# Page\n')
    done = run(*tool, check=False, env=environment)
    assert done.returncode == 1
    assert 'has no commands with an output comment' in done.stdout
