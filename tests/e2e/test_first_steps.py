"""The README's first command, and the tutorial, command by command."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config


def test_quickstart_trains_tests_and_predicts(tmp_path, forked, run):
    run('bash', 'tools/setup_env.sh', env=os.environ)  # pip, if it is needed, is no fork
    env = {name: value for name, value in forked.items() if name != 'OMP_NUM_THREADS'}
    text = run('bash', 'tools/quickstart.sh', tmp_path, env=env).stdout
    assert float(re.search(r'Held-out top-1 accuracy: ([\d.]+)', text)[1]) >= 0.95
    assert re.search(
        r'00000_left\.mp4\n +\d+\.\d %  left *\n', text
    )  # a clip of the held-out split
    for name in ('learning_curve.png', 'confusion_matrix.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    for name in ('epoch_5.pth', 'train.log', 'test.log', 'predictions.pkl'):
        assert (tmp_path / name).stat().st_size > 0


ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A folder that has what a checkout has, to write into."""
    for name in ('configs', 'dev', 'docs', 'projects', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_commands_print_what_the_tutorial_says(checkout, forked, run):
    run('python', 'dev/run_docs.py', 'docs/tutorial.md', '--check', cwd=checkout, env=forked)
    work = checkout / 'work_dirs/mine'
    (test,) = (json.loads(log.read_text()) for log in work.glob('test/*/*.json'))
    assert test['acc/top1'] >= 0.75  # by chance 0.25
    assert (work / 'learning_curve.png').read_bytes().startswith(b'\x89PNG')
    assert (work / 'inspection/index.html').stat().st_size > 10000


def test_a_few_videos_train_a_network_of_imagenet(checkout, motion_data, forked, run):
    for kind in ('left', 'right', 'up', 'down'):
        folder = checkout / 'data/my_videos' / kind
        folder.mkdir(parents=True)
        video = next(motion_data.glob(f'videos_*/*_{kind}.mp4'))
        for number in range(4):
            shutil.copy(video, folder / f'{number}.mp4')
    text = (ROOT / 'docs/tutorial.md').read_text()
    commands = re.search(r'```bash\n(export PYTHONPATH.*?)```', text, re.DOTALL)[1]
    assert commands.count('times=11') == 1
    commands = commands.replace('times=11', 'times=14')  # ten steps
    run('mmsifa', 'make-lists', 'data/my_videos', '--val-share', '0.2', cwd=checkout, env=forked)
    network = '--config my_clips.py --checkpoint work_dirs/clips/epoch_1.pth'
    predict = (
        f'mmsifa predict data/my_videos/left/0.mp4 {network} --labels data/my_videos/label_map.txt'
    )
    printed = run('bash', '-ec', commands + predict, cwd=checkout, env=forked).stdout
    scores = re.findall(r'([\d.]+) %  (\w+)', printed)
    assert {name for _, name in scores} == {'left', 'right', 'up', 'down'}
    assert sum(float(score) for score, _ in scores) == pytest.approx(100, abs=0.5)
    work = checkout / 'work_dirs/clips'
    (test,) = (json.loads(log.read_text()) for log in work.glob('test/*/*.json'))
    assert {'acc/top1', *(f'acc/label={label}' for label in range(4))} <= test.keys()
    weights = torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']
    assert weights['cls_head.fc_cls.weight'].shape == (128, 112)
    assert weights['cls_head.consensus.classifier.3.weight'].shape == (4, 512)
    assert any(name.endswith('conv_offset_behind.weight') for name in weights)


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
