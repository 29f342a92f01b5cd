"""The loop and the hooks of a run that is broken off, goes on, or must stop."""

import json
import re
import signal
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmaction.registry import HOOKS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from small_networks import torchvision_weights

from dev.kill_training import differences
from mmsifa.__main__ import main
from mmsifa.apis import load_config
from mmsifa.engine.hooks import PreemptionHook
from mmsifa.engine.loops import ResumableSampler, ResumableTrainLoop
from mmsifa.fileio.atomic_write import unfinished_file

pytestmark = pytest.mark.slow  # trains

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
        samples = [sample.get('filename') for sample in data_batch['data_samples']]
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
    """Build the runner of a small SIFA-Net with drop-out, prepared clips and both augmentations."""

    folder = tmp_path_factory.mktemp('runs')
    videos = ['prepare-videos', motion_data / 'train_list_videos.txt', folder / 'prepared']
    assert main([*map(str, videos), '--data-root', str(motion_data / 'videos_train')]) == 0
    jitter, grey, blur = load_config('sifa_r50_k400').train_pipeline[5:8]

    def build(work_dir, *, resume=False, break_off=None, **options):
        config = Config.fromfile(root / 'configs/sifa_tiny_motion.py')
        config.work_dir = str(folder / work_dir)
        config.experiment_name = next(names)
        config.resume = resume
        config.model.backbone.update(base_channels=8, stage_blocks=(1, 2, 1, 1))
        config.model.cls_head.update(in_channels=256, dropout_ratio=0.5)
        config.model.data_preprocessor.update(type='ClipAugmentation', transforms=[grey, blur])
        config.train_dataloader.dataset.pipeline.insert(3, jitter)
        for split, part in (('train', 'train'), ('val', 'val')):
            loader = config[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.ann_file = str(motion_data / f'{part}_list_videos.txt')
            loader.dataset.data_prefix = dict(video=str(motion_data / f'videos_{part}'))
        config.train_dataloader.dataset.update(
            ann_file=str(folder / 'prepared/train_list_videos.txt'),
            data_prefix=dict(video=str(folder / 'prepared')),
        )
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


IN_THE_EPOCH = dict(iteration=2, by_signal=True)
AT_ITS_END = dict(iteration=BATCHES, by_signal=True)
IN_THE_NEXT = dict(iteration=BATCHES + 1)


@pytest.mark.parametrize(
    ('whole', 'break_off'),
    [
        ('workers', IN_THE_EPOCH),
        ('workers', IN_THE_NEXT),
        ('accumulation and average', IN_THE_EPOCH),
        ('accumulation and average', AT_ITS_END),
    ],
    indirect=['whole'],
    ids=['workers, signal', 'workers, crash', 'accumulation, signal', 'accumulation, end'],
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


STARTS = {
    'load_from': lambda file: {'load_from': file},
    'pretrained': lambda file: {'model.backbone.pretrained': file},
    'init_cfg': lambda file: {
        'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=file, prefix='backbone.')
    },
}


@pytest.mark.parametrize('start', STARTS)
def test_a_run_that_starts_from_weights_ends_like_a_whole_one(build, start, tmp_path):
    """With averaged weights; it crashes before its first checkpoint and after it."""
    weights = dict(state_dict=build(f'weights for {start}').model.state_dict())
    if start == 'pretrained':
        weights = torchvision_weights(blocks=(1, 2, 1, 1), width=8)
    torch.save(weights, tmp_path / 'weights.pth')
    options = STARTS[start](str(tmp_path / 'weights.pth'))
    options['default_hooks.average'] = dict(type='EMAHook', momentum=0.1)
    options['train_cfg.val_begin'] = 9  # never
    whole = build(f'whole from {start}', resume=True, **options)
    whole.train()
    folder = f'broken from {start}'
    for iteration in (2, BATCHES + 1):
        with pytest.raises(BreakError):
            build(folder, resume=True, break_off=dict(iteration=iteration), **options).train()
    resumed = build(folder, resume=True, **options)
    resumed.train()
    assert len(seen(resumed)) == BATCHES
    assert differences(state(whole), state(resumed)) == []


@HOOKS.register_module()
class SpoilScoresHook(Hook):
    """Make the scores of a validation NaN."""

    def before_val_epoch(self, runner):
        torch.nn.init.constant_(runner.model.cls_head.fc_cls.bias, torch.nan)


def test_a_validation_of_scores_that_are_no_numbers_stops_and_has_no_best_checkpoint(build):
    runner = build('spoilt', **{'default_hooks.spoil': dict(type='SpoilScoresHook')})
    with pytest.raises(
        FloatingPointError, match=r'the scores of samples \S+/00000_\w+\.mp4, .* are NaN'
    ):
        runner.train()
    assert [path.name for path in Path(runner.work_dir).glob('*.pth')] == ['epoch_1.pth']


def test_mmengine_alone_goes_on_with_other_clips(build):
    options = {
        'train_cfg.type': 'EpochBasedTrainLoop',
        'train_cfg.val_begin': 9,  # never
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


def test_a_validation_that_made_the_best_checkpoint_is_not_run_again(build):
    with pytest.raises(BreakError):
        build('validated', break_off=dict(iteration=BATCHES + 1)).train()
    resumed = build('validated', resume=True)
    resumed.train()
    scalars = Path(resumed.work_dir, resumed.timestamp, 'vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.open()]
    assert [line['step'] for line in lines if 'acc/top1' in line] == [2]


def test_a_slice_of_the_data_is_seeded_too(build):
    options = {'train_dataloader.num_batch_per_epoch': 2, 'train_cfg.max_epochs': 1}
    runners = [build(f'slice {seed}', **{**options, 'randomness.seed': seed}) for seed in (3, 4)]
    for runner in runners:
        runner.train()
    clips = [
        {
            clip: mean
            for _, names, means in seen(runner)
            for clip, mean in zip(names, means, strict=True)
        }
        for runner in runners
    ]
    assert clips[0].keys() == clips[1].keys()
    assert clips[0] != clips[1]


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


# Checkpoints


def test_a_checkpoint_goes_only_when_the_next_is_there(build, monkeypatch):
    runner = build('order', **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    folder, there = Path(runner.work_dir), []
    save = runner.save_checkpoint

    def save_checkpoint(*args, **kwargs):
        save(*args, **kwargs)
        last = folder / 'last_checkpoint'
        names = {path.name for path in folder.glob('*.pth')}
        there.append((names, Path(last.read_text()).name if last.exists() else None))

    monkeypatch.setattr(runner, 'save_checkpoint', save_checkpoint)
    metrics = iter([dict(acc=0.1), dict(acc=0.2)])  # so that both are the best
    monkeypatch.setattr(runner.val_loop.evaluator, 'evaluate', lambda size: next(metrics))
    runner.train()

    best = ['best_acc_epoch_1.pth', 'best_acc_epoch_2.pth']
    assert there == [
        ({'epoch_1.pth'}, None),
        ({'epoch_1.pth', best[0]}, 'epoch_1.pth'),
        ({'epoch_1.pth', best[0]}, 'epoch_1.pth'),  # again, since it names the best
        ({'epoch_1.pth', 'epoch_2.pth', best[0]}, 'epoch_1.pth'),
        ({'epoch_2.pth', *best}, 'epoch_2.pth'),
        ({'epoch_2.pth', *best}, 'epoch_2.pth'),
    ]
    assert {path.name for path in folder.glob('*.pth')} == {'epoch_2.pth', best[1]}


def test_what_a_killed_run_has_not_finished_goes_at_the_next_start(build):
    runner = build('unfinished', **{'train_cfg.max_epochs': 1})
    part = Path(runner.work_dir, '.epoch_7.pth.0123abcd.part')
    part.write_text('half')
    with unfinished_file(Path(runner.work_dir, 'epoch_8.pth')) as file:
        runner.train()
        assert not part.exists()
        assert Path(file.name).exists()  # another process writes it


def test_a_validation_alone_saves_nothing(build):
    runner = build('validation alone')
    assert runner.val()['acc/top5'] >= 0
    assert not list(Path(runner.work_dir).glob('*.pth'))


# Numbers


@HOOKS.register_module()
class SpoilHook(Hook):
    """Make a weight infinite after an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            with torch.no_grad():
                next(runner.model.parameters()).fill_(torch.inf)


@pytest.mark.parametrize('whole', ['workers'], indirect=True)
def test_an_invalid_loss_stops_the_training(build, whole):
    runner = build('nan', **{'default_hooks.spoil': dict(type='SpoilHook', iteration=BATCHES + 1)})
    with pytest.raises(FloatingPointError) as stopped:
        runner.train()
    message = str(stopped.value)
    losses = 'loss nan, loss_cls nan, loss_cls_dual nan'
    assert message.startswith(f'{losses} at iteration 8 (epoch 2, batch 2), ')
    rate = runner.optim_wrapper.get_lr()['lr'][0]
    assert f'learning rate {rate}, samples ' in message
    assert all(name in message for name in seen(whole[1])[BATCHES + 1][1])
    assert f'The last good checkpoint is {runner.work_dir}/epoch_1.pth.' in message
    assert Path(runner.work_dir, 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_no_checkpoint_holds_an_invalid_weight(build):
    """The last iteration of the epoch has spoiled it, so no loss has shown it yet."""
    runner = build(
        'spoiled', **{'default_hooks.spoil': dict(type='SpoilHook', iteration=2 * BATCHES)}
    )
    with pytest.raises(FloatingPointError) as stopped:
        runner.train()
    assert re.match(r'1 of \d+ weights and statistics are NaN or infinite', str(stopped.value))
    assert f'The last good checkpoint is {runner.work_dir}/epoch_1.pth.' in str(stopped.value)
    assert {path.name for path in Path(runner.work_dir).glob('epoch_*')} == {'epoch_1.pth'}


def test_what_is_infinite_by_design_is_saved(build):
    runner = build('mask', **{'train_cfg.max_epochs': 1})
    runner.model.register_buffer('mask', torch.tensor(-torch.inf))
    runner.train()
    assert Path(runner.work_dir, 'epoch_1.pth').is_file()


def test_a_model_that_was_not_trained_is_saved_unless_it_is_spoiled(build):
    runner = build('untrained')
    runner.model.register_buffer('mask', torch.tensor(-torch.inf))
    save = partial(runner.save_checkpoint, runner.work_dir, save_optimizer=False)
    save('whole.pth', save_param_scheduler=False)
    assert Path(runner.work_dir, 'whole.pth').is_file()
    next(runner.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match='There is no checkpoint yet'):
        save('spoiled.pth', save_param_scheduler=False)


def test_samples_without_a_name_are_said_to_be_unknown(build):
    options = {
        'train_dataloader.dataset.pipeline.7.meta_keys': (),
        'default_hooks.spoil': dict(type='SpoilHook', iteration=1),
    }
    runner = build('unnamed', **options)
    with pytest.raises(
        FloatingPointError, match=r"samples unknown \(name 'filename' in the meta_k"
    ):
        runner.train()


# Signals


def test_preemption_needs_known_signals():
    with pytest.raises(ValueError, match=r"signals among .*SIGUSR1.*, got \['USR1'\]"):
        PreemptionHook(['USR1'])
    with pytest.raises(ValueError, match='interval must be a positive integer, got 0'):
        PreemptionHook(interval=0)


@pytest.mark.parametrize(
    ('epoch', 'accumulated', 'expected'),
    [(100, 1, [10, 20, 30]), (15, 1, [10, 15, 25]), (100, 4, [12, 24])],
    ids=['long', 'ends', 'accumulates'],
)
def test_processes_ask_each_other_every_tenth_iteration(monkeypatch, epoch, accumulated, expected):
    """Another process gets the signal in iteration 22: this one ends when it next asks."""
    asked = []

    def all_reduce(received, op):
        asked.append(iteration)
        received.fill_(iteration >= 22)

    monkeypatch.setattr('mmsifa.engine.hooks.preemption.get_world_size', lambda: 2)
    monkeypatch.setattr('mmsifa.engine.hooks.preemption.all_reduce', all_reduce)
    hook = PreemptionHook()
    hook.saver = mock.Mock()
    for iteration in range(1, expected[-1] + 1):
        runner = mock.Mock(iter=iteration - 1, train_dataloader=range(epoch))
        runner.optim_wrapper.should_update.return_value = iteration % accumulated == 0
        ends = pytest.raises(SystemExit) if iteration == expected[-1] else nullcontext()
        with ends:
            hook.after_train_iter(runner, (iteration - 1) % epoch)
    assert asked == expected
    hook.saver.save_interrupted.assert_called_once_with(runner)


def test_preemption_is_idle_without_a_hook_to_save_by(build):
    before = signal.getsignal(signal.SIGUSR1)
    options = {'default_hooks.checkpoint.type': 'CheckpointHook', 'train_cfg.max_epochs': 1}
    runner = build('plain', **options)
    runner.train()
    assert signal.getsignal(signal.SIGUSR1) == before
    assert 'PreemptionHook is idle' in next(Path(runner.work_dir).glob('*/*.log')).read_text()


def test_signals_are_given_back_after_the_run(build):
    before = signal.getsignal(signal.SIGUSR1)
    build('signals', **{'train_cfg.max_epochs': 1}).train()
    assert signal.getsignal(signal.SIGUSR1) == before
