"""Runs that are broken off and go on, in one process."""

import json
import signal
from itertools import count
from pathlib import Path

import pytest
from mmaction.registry import HOOKS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint

from mmsifa.engine import ResumableSampler, ResumableTrainLoop
from tools.kill_training import differences

BATCHES = 6  # of 3 of the 16 clips
names = (f'resume_{i}' for i in count())


class BreakError(Exception):
    pass


@HOOKS.register_module()
class BreakOffHook(Hook):
    """Raise a signal, or an error, at a point of the run; write down what was trained on."""

    def __init__(self, iteration=None, by_signal=False, validation=False):
        self.iteration, self.by_signal, self.validation = iteration, by_signal, validation
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = [sample.filename for sample in data_batch['data_samples']]
        self.seen.append(
            (batch_idx, samples, [clip.double().mean() for clip in data_batch['inputs']])
        )
        if runner.iter + 1 == self.iteration:
            if not self.by_signal:
                raise BreakError
            signal.raise_signal(signal.SIGUSR1)

    def before_val_epoch(self, runner):
        if self.validation:
            raise BreakError


@pytest.fixture(scope='module')
def build(root, motion_data, tmp_path_factory):
    """Build the runner of a small SIFA-Net with drop-out and augmentation."""

    folder = tmp_path_factory.mktemp('runs')

    def build(work_dir, *, resume=False, break_off=None, **options):
        config = Config.fromfile(root / 'configs/sifa_tiny_motion.py')
        config.work_dir = str(folder / work_dir)
        config.experiment_name = next(names)
        config.resume = resume
        config.model.backbone.update(base_channels=8, stage_blocks=(1, 2, 1, 1))
        config.model.cls_head.update(in_channels=256, dropout_ratio=0.5)
        for split, part in (('train', 'train'), ('val', 'val')):
            loader = config[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.ann_file = str(motion_data / f'{part}_list_videos.txt')
            loader.dataset.data_prefix = dict(video=str(motion_data / f'videos_{part}'))
        config.test_dataloader = config.test_evaluator = config.test_cfg = None
        config.train_dataloader.batch_size = 3
        config.train_cfg.update(max_epochs=2, val_interval=1)
        config.custom_hooks = [dict(type='BreakOffHook', **(break_off or {}))]
        config.merge_from_dict({'randomness.seed': 3, **options})
        return Runner.from_cfg(config)

    return build


def seen(runner):
    return next(hook.seen for hook in runner.hooks if isinstance(hook, BreakOffHook))


def state(runner):
    checkpoint = _load_checkpoint(runner.work_dir + '/epoch_2.pth', map_location='cpu')
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    return {key: checkpoint[key] for key in kept if key in checkpoint}


WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
OPTIONS = {
    'workers': WORKERS,
    'accumulation and average': {
        'optim_wrapper.accumulative_counts': 4,  # 2 batches wait at the end of an epoch
        'default_hooks.average': dict(type='EMAHook', momentum=0.1),
    },
}


@pytest.fixture(scope='module', params=OPTIONS)
def whole(request, build):
    """The options of a run, and the run without a break."""
    options = OPTIONS[request.param]
    runner = build(f'whole {request.param}', **options)
    runner.train()
    return options, runner


@pytest.mark.parametrize(
    'break_off',
    [
        dict(iteration=2, by_signal=True),
        dict(iteration=BATCHES, by_signal=True),
        dict(iteration=BATCHES + 1),
    ],
    ids=['signal in the epoch', 'signal at its end', 'crash in the next'],
)
def test_a_run_that_was_broken_off_ends_like_a_whole_one(build, whole, break_off):
    options, whole = whole
    folder = f'broken {next(names)}'
    with pytest.raises(SystemExit if 'by_signal' in break_off else BreakError) as ended:
        build(folder, break_off=break_off, **options).train()
    if 'by_signal' in break_off:
        assert ended.value.code == 75
    resumed = build(folder, resume=True, **{**options, 'randomness.seed': None})
    resumed.train()

    assert resumed.seed == 3
    assert seen(resumed) == seen(whole)[-len(seen(resumed)) :]
    assert 0 < len(seen(resumed)) < len(seen(whole))
    assert differences(state(whole), state(resumed)) == []
    assert sorted(path.name for path in Path(resumed.work_dir).glob('*.pth')) == sorted(
        path.name for path in Path(whole.work_dir).glob('*.pth')
    )


def test_mmengine_alone_goes_on_with_other_clips(build):
    options = {
        **WORKERS,
        'train_cfg.type': 'EpochBasedTrainLoop',
        'default_hooks.checkpoint.type': 'CheckpointHook',
        'default_hooks.preemption.signals': [],
    }
    whole = build('mmengine whole', **options)
    whole.train()
    with pytest.raises(BreakError):
        build('mmengine', break_off=dict(iteration=BATCHES + 1), **options).train()
    resumed = build('mmengine', resume=True, **options)
    resumed.train()
    assert differences(state(whole), state(resumed))


def test_every_clip_is_seen_once_an_epoch(build):
    one_epoch = {'train_cfg.max_epochs': 1}
    with pytest.raises(SystemExit):
        build('once', break_off=dict(iteration=4, by_signal=True), **one_epoch).train()
    resumed = build('once', resume=True, **one_epoch)
    resumed.train()
    whole = build('once whole', **one_epoch)
    whole.train()
    assert [batch for batch, _, _ in seen(resumed)] == [4, 5]
    clips = [clip for _, clips, _ in seen(whole) for clip in clips]
    assert len(clips) == len(set(clips)) == 16
    assert [clips for _, clips, _ in seen(resumed)] == [clips for _, clips, _ in seen(whole)[4:]]


def test_augmentation_changes_with_the_epoch(whole):
    means = {}
    for _, clips, values in seen(whole[1]):
        for clip, value in zip(clips, values, strict=True):
            means.setdefault(clip, set()).add(value.item())
    assert any(len(values) == 2 for values in means.values())


def test_a_run_killed_while_it_validates_validates_again(build):
    with pytest.raises(BreakError):
        build('unvalidated', break_off=dict(validation=True)).train()
    resumed = build('unvalidated', resume=True)
    resumed.train()
    folder = Path(resumed.work_dir)
    lines = [
        json.loads(line) for line in (folder / f'{resumed.timestamp}/vis_data/scalars.json').open()
    ]
    assert [line['step'] for line in lines if 'acc/top1' in line] == [1, 2]
    assert len(list(folder.glob('best_*.pth'))) == 1


def test_the_rest_of_an_epoch_may_run_on_another_number_of_processes(build):
    """What two processes would read is the rest of what one has left."""
    with pytest.raises(SystemExit):
        build('moved', break_off=dict(iteration=2, by_signal=True)).train()
    runner = build('moved', resume=True, **{'train_cfg.max_epochs': 1})
    runner.train()
    rest = {clip for _, clips, _ in seen(runner) for clip in clips}

    dataset = runner.train_dataloader.dataset
    config = dict(type='DefaultSampler', shuffle=True)
    parts = []
    for rank in range(2):
        sampler = ResumableSampler(dataset, config, seed=3)
        sampler.sampler.rank, sampler.sampler.world_size = rank, 2
        sampler.start = 6 // 2
        parts.append({dataset.get_data_info(i)['filename'] for i in sampler})
    assert parts[0] | parts[1] == rest
    assert not parts[0] & parts[1]


def test_a_ready_made_data_loader_is_refused(build):
    loader = build('refused').build_dataloader(build('refused')._train_dataloader)
    with pytest.raises(TypeError, match='expects train_dataloader to be a config'):
        ResumableTrainLoop(None, loader, max_epochs=1)
