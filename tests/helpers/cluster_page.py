"""The commands of docs/cluster.md, a place to run them, and what the ranks must have done."""

import json
import os
import re
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config

from mmsifa.checkpoints import safe_loading

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/cluster.md').read_text()


def commands(page: str) -> dict[str, str]:
    """The commands of a page's bash blocks, each by the comment on the line before it."""
    found = {}
    for block in re.findall(r'```bash\n(.*?)```', page, re.DOTALL):
        for title, command in re.findall(r'^# (.*)\n((?:.*\\\n)*.*)', block, re.MULTILINE):
            found[title] = re.sub(r'\s*\\\n\s*', ' ', command)
    return found


COMMANDS = commands(PAGE)


def command(title: str, replaced: dict[str, str], *more: str) -> list[str]:
    """A command of the page for bash, with parts replaced and arguments appended."""
    text = COMMANDS[title]
    for old, new in replaced.items():
        assert old in text, f'{old!r} is not in {text!r}'
        text = text.replace(old, new)
    return ['bash', '-c', ' '.join([text, *more])]


def environment(**more: str) -> dict[str, str]:
    """Variables for two ranks on the CPU that find the tests' hooks; some may be replaced."""
    path = [str(ROOT / 'tests' / 'helpers'), *filter(None, [os.environ.get('PYTHONPATH')])]
    return os.environ | {
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'PYTHONPATH': os.pathsep.join(path),
        'PYTHONWARNINGS': 'ignore',
        'CUDA_VISIBLE_DEVICES': '',
        **more,
    }


def workplace(folder: Path, data: Path, **norm_cfg) -> Path:
    """A folder in which the page's commands run: its config, small, and the tools.

    Two ranks make 4 iterations and 2 updates of an epoch.
    """
    cfg = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py')
    changes = {
        'model.backbone.base_channels': 8,
        'model.backbone.stage_blocks': (1, 2, 1, 1),
        'model.backbone.norm_cfg': norm_cfg,
        'model.cls_head.in_channels': 256,
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': 2,
        'val_dataloader.batch_size': 2,
        'optim_wrapper.accumulative_counts': 2,
        'param_scheduler.0.start_factor': 1,  # weights that move
        'default_hooks.logger.interval': 1,
        'default_hooks.record': dict(type='RankRecord'),
        'custom_imports.imports': ['mmsifa', 'rank_hooks'],
        'randomness': dict(seed=0),
    }
    for split in ('train', 'val', 'test'):
        loader, part = f'{split}_dataloader', 'train' if split == 'train' else 'val'
        pack = len(cfg[loader].dataset.pipeline) - 1
        changes |= {
            f'{loader}.num_workers': 0,
            f'{loader}.persistent_workers': False,
            f'{loader}.dataset.ann_file': f'{data}/{part}_list_videos.txt',
            f'{loader}.dataset.data_prefix.video': f'{data}/videos_{part}',
            f'{loader}.dataset.pipeline.{pack}.meta_keys': ('filename',),
        }
    cfg.merge_from_dict(changes)
    (folder / 'configs').mkdir(parents=True)
    cfg.dump(folder / 'configs/sifa_r50_k400.py')
    (folder / 'tools').symlink_to(ROOT / 'tools')
    return folder


def records(work: Path, name: str = 'rank') -> list[dict]:
    """What the ranks wrote, in their order."""
    return [json.loads(path.read_text()) for path in sorted(work.glob(f'ranks/{name}*.json'))]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    with safe_loading():
        return torch.load(path)['state_dict']


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether weights are the same, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The Euclidean distance of weights."""
    return sum((one[k] - other[k]).double().square().sum().item() for k in one) ** 0.5


def check_ranks(work: Path, data: Path) -> None:
    """Two ranks shared the data out, ended with the same weights and scored each clip once."""
    one, other = records(work)
    assert one['world_size'] == other['world_size'] == 2
    assert one['weights'] == other['weights']
    assert one['metrics'] == other['metrics']
    seen = [[name for batch in rank['trained'] for name in batch] for rank in (one, other)]
    assert not set(seen[0]) & set(seen[1])
    assert sorted(seen[0] + seen[1]) == sorted(p.name for p in (data / 'videos_train').iterdir())
    scored = one['validated'] | other['validated']
    assert scored.keys() == {path.name for path in (data / 'videos_val').iterdir()}
    assert one['metrics']['acc/top1'] == accuracy(scored, data)


def check_killed_rank(train, title: str, replaced: dict[str, str]) -> None:
    """Kill a rank in the second epoch of a training: all end soon, and the next start resumes."""
    epochs = 'train_cfg.max_epochs=2'
    kill = [f'default_hooks.kill.{x}' for x in ('type=KillRank', 'rank=1', 'iters=6')]
    more = ('--cfg-options', epochs, *kill)
    work, done = train('killed', title, replaced, *more, check=False, timeout=300)
    end = time.time()
    assert done.returncode != 0
    (killed,) = records(work, 'killed')
    assert end - killed['time'] < 60
    assert not records(work)  # nobody finished
    assert (work / 'last_checkpoint').read_text().endswith('epoch_1.pth')

    _, done = train('killed', title, replaced, '--resume', '--cfg-options', epochs)
    assert 'resumed epoch: 1, iter: 4' in done.stdout
    one, other = records(work)
    assert one['weights'] == other['weights']
    assert (work / 'epoch_2.pth').is_file()


def accuracy(scores: dict[str, list[float]], data: Path) -> float:
    """The share of right answers among scores of held-out clips, each counted once."""
    lines = (data / 'val_list_videos.txt').read_text().splitlines()
    labels = {line.split()[0]: int(line.split()[1]) for line in lines}
    assert len(scores) == len(labels) == 9
    right = [max(range(8), key=scores[name].__getitem__) == labels[name] for name in labels]
    return sum(right) / len(right)
