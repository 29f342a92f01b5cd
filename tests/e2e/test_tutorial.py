"""The tutorial, command by command, from a folder of videos to an exported model in use."""

import json
import os
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A folder that has what a checkout has, to write into."""
    for name in ('configs', 'dev', 'docs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_commands_print_what_the_tutorial_says(checkout, run):
    env = os.environ | {'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
    run('python', 'dev/run_docs.py', 'docs/tutorial.md', '--check', cwd=checkout, env=env)
    work = checkout / 'work_dirs/mine'
    (test,) = (json.loads(log.read_text()) for log in work.glob('test/*/*.json'))
    assert test['acc/top1'] >= 0.75  # by chance 0.25
    assert (work / 'learning_curve.png').read_bytes().startswith(b'\x89PNG')
    assert (work / 'inspection/index.html').stat().st_size > 10000


def test_config_for_real_videos_has_the_folder_in_every_split(checkout):
    text = (ROOT / 'docs/tutorial.md').read_text().split('```python\n')[-1].split('```')[0]
    (checkout / 'my_config.py').write_text(text)
    config = Config.fromfile(checkout / 'my_config.py')
    lists = [config[f'{split}_dataloader'].dataset.ann_file for split in ('train', 'val', 'test')]
    assert [Path(path).name.split('_')[0] for path in lists] == ['train', 'val', 'val']
    for split in ('train', 'val', 'test'):
        data = config[f'{split}_dataloader'].dataset
        assert data.data_prefix == dict(video='data/my_videos')
        assert data.pipeline[0].type == 'DecordInit'
