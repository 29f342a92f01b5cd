"""What a run goes on from, and what of it counts: MMAction2's own train tool on a small network."""

import functools
import shutil
import signal
from itertools import count
from operator import getitem
from pathlib import Path

import pytest
import torch
from mmaction.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import Dataset

from dev.kill_training import differences
from mmsifa.checkpoints.load import safe_loading
from mmsifa.commands.run_tool import run_tool
from mmsifa.engine.patches import resuming

pytestmark = pytest.mark.slow  # trains

CONFIG = """
default_scope = 'mmaction'
model = dict(type='ResumeModel')
train_dataloader = dict(
    dataset=dict(type='ResumeData'), batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'))
train_cfg = dict(type='ResumableTrainLoop', max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01))
param_scheduler = [dict(type='ExponentialLR', gamma=0.9, by_epoch=False)]
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2),
    loaded=dict(type='CheckLoadedCheckpointHook'),
    preemption=dict(type='PreemptionHook'),
    average=dict(type='EMAHook', momentum=0.1))
custom_hooks = [dict(type='BreakAtHook', iteration=0)]
randomness = dict(seed=1)
env_cfg = dict(cudnn_benchmark=False)
load_from = None
resume = False
work_dir = None
"""
LENGTH = 4  # iterations of an epoch
VALIDATED = {
    'val_cfg': dict(type='ValLoop'),
    'val_evaluator': dict(type='ResumeMetric'),
    'val_dataloader': dict(
        dataset=dict(type='ResumeData'),
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    ),
}
names = (f'resume{i}' for i in count())


class BreakError(Exception):
    pass


@MODELS.register_module()
class ResumeModel(BaseModel):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        self.cls_head = torch.nn.Linear(4, classes)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.cls_head(self.backbone(inputs)).square().mean()}

    def val_step(self, data):
        return [None]


@DATASETS.register_module()
class ResumeData(Dataset):
    def __len__(self):
        return 2 * LENGTH

    def __getitem__(self, index):
        return dict(inputs=torch.randn(2) + index)


@METRICS.register_module()
class ResumeMetric(BaseMetric):
    """One that is always the same."""

    def process(self, batch, samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(acc=0.5)


@HOOKS.register_module()
class BreakAtHook(Hook):
    """End as a crash would, or by a signal, after an iteration; write down the learning rates."""

    def __init__(self, iteration, by_signal=False):
        self.iteration, self.by_signal = iteration, by_signal

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with Path(runner.work_dir, 'rates.txt').open('a') as file:
            file.write(f'{runner.optim_wrapper.get_lr()["lr"][0]!r}\n')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            if not self.by_signal:
                raise BreakError
            signal.raise_signal(signal.SIGUSR1)


@pytest.fixture
def train(tmp_path):
    """Train by MMAction2's tool and return the work folder."""

    def train(work_dir, *arguments, options=(), breaks_at=0, by_signal=False, **config):
        path = tmp_path / f'{next(names)}.py'
        cfg = Config.fromstring(CONFIG, '.py')
        cfg.experiment_name = path.stem
        for key, value in config.items():
            *parents, name = key.split('.')
            functools.reduce(getitem, parents, cfg)[name] = value
        cfg.dump(path)
        work_dir = tmp_path / work_dir
        options = [*options, f'custom_hooks.0.iteration={breaks_at}']
        options.append(f'custom_hooks.0.by_signal={by_signal}')
        command = [str(path), '--work-dir', str(work_dir), *map(str, arguments)]
        command += ['--cfg-options', *options]
        if breaks_at:
            with pytest.raises(SystemExit if by_signal else BreakError):
                run_tool('train', command)
        else:
            run_tool('train', command)
        return work_dir

    return train


@pytest.fixture
def other(train):
    """A checkpoint of another run, of four epochs, which was a better one."""
    work_dir = train('other', **{'train_cfg.max_epochs': 4, 'randomness.seed': 2})
    path = work_dir / 'epoch_4.pth'
    claim(path, best_score=0.99, best_ckpt=str(work_dir / 'epoch_3.pth'))
    return path


def load(path) -> dict:
    with safe_loading():
        return torch.load(path)


def last(work_dir) -> dict:
    """The last checkpoint."""
    return load(work_dir / Path((work_dir / 'last_checkpoint').read_text()).name)


def claim(path, **infos) -> None:
    """Write into a checkpoint what it says of its run."""
    content = load(path)
    content['message_hub']['runtime_info'] |= infos
    content['message_hub']['resumed_keys'] |= dict.fromkeys(infos, True)
    torch.save(content, path)


def state(work_dir) -> dict:
    content = last(work_dir)
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    return {key: content[key] for key in kept}


def infos(work_dir) -> dict:
    return last(work_dir)['message_hub']['runtime_info']


def checkpoints(folder) -> set[str]:
    return {path.name for path in folder.glob('*.pth')}


def log(work_dir) -> str:
    """What the last start logged."""
    return max(work_dir.glob('*/*.log')).read_text()


def rates(work_dir) -> list[float]:
    return [float(line) for line in (work_dir / 'rates.txt').read_text().split()]


# Weights to start from

WAYS = {
    'the config': lambda file: dict(load_from=str(file)),
    'an option': lambda file: dict(options=[f'load_from={file}']),
    'the option of resuming': lambda file: dict(resume=['--resume', file]),
}


def started(train, way, file, work_dir, **kwargs):
    """Start a run from a file, with --resume each time, as slurm_requeue.sbatch does."""
    given = WAYS[way](file)
    return train(work_dir, *given.pop('resume', ['--resume']), **given, **kwargs)


@pytest.mark.parametrize('way', WAYS)
def test_load_from_gives_the_weights_where_there_is_nothing_to_resume(train, other, way):
    still = {'optim_wrapper.optimizer.lr': 0.0}
    work_dir = started(train, way, other, 'work', **still)
    expected = load(other)['state_dict']
    assert torch.equal(last(work_dir)['state_dict']['cls_head.weight'], expected['cls_head.weight'])
    assert last(work_dir)['meta']['epoch'] == 3  # all of its own
    assert len(rates(work_dir)) == 3 * LENGTH
    assert 'best_score' not in infos(work_dir)
    assert f'starts its first epoch, from the weights of {other}' in log(work_dir)


@pytest.mark.parametrize('nothing', ['load_from=None', 'load_from='])
def test_load_from_may_be_taken_back(train, other, nothing):
    work_dir = train('work', '--resume', load_from=str(other), options=[nothing])
    assert differences(state(work_dir), state(train('plain'))) == []
    assert 'yet: the run starts anew' in log(work_dir)


@pytest.mark.parametrize('way', WAYS)
def test_a_run_that_started_from_weights_goes_on_with_its_own_checkpoint(train, other, way):
    """Broken off before its first checkpoint and after; all of FILE's epochs are more than its."""
    whole = started(train, way, other, 'whole')
    for breaks_at in (2, LENGTH + 1, 2 * LENGTH + 1, 0):
        work_dir = started(train, way, other, 'broken', breaks_at=breaks_at)
    assert differences(state(whole), state(work_dir)) == []
    assert checkpoints(work_dir) == checkpoints(whole) == {'epoch_2.pth', 'epoch_3.pth'}
    assert infos(work_dir)['keep_ckpt_ids'] == [2, 3]
    assert f'goes on from its checkpoint {work_dir}/epoch_2.pth, not from {other}' in log(work_dir)
    assert other.is_file()


def test_another_runs_checkpoint_is_resumed_where_it_is_asked_for(train, other):
    """Its position counts, its files and its best score do not; then the run's own counts."""
    hook = dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2, save_best='acc')
    kwargs = {'train_cfg.max_epochs': 7, 'default_hooks.checkpoint': hook, **VALIDATED}
    kwargs['options'] = [f'resume={other}']
    work_dir = train('work', breaks_at=5 * LENGTH + 1, **kwargs)
    assert f'goes on with the checkpoint {other} of another run' in log(work_dir)
    train('work', **kwargs)
    assert f'goes on from its checkpoint {work_dir}/epoch_5.pth, not from {other}' in log(work_dir)
    assert len(rates(work_dir)) == LENGTH + 1 + 2 * LENGTH
    assert infos(work_dir)['best_score'] == 0.5
    assert checkpoints(work_dir) >= {'epoch_6.pth', 'epoch_7.pth'}
    assert any(name.startswith('best_acc') for name in checkpoints(work_dir))
    assert checkpoints(other.parent) == {'epoch_3.pth', 'epoch_4.pth'}


def test_weights_alone_are_no_run_to_go_on_with(train, other, tmp_path):
    torch.save(dict(state_dict=load(other)['state_dict']), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'weights.pth holds weights, but not .*: give it as load'):
        train('work', options=[f'resume={tmp_path}/weights.pth'])


def test_weights_of_another_head_start_a_run_that_resumes(train, other):
    work_dir = train('work', '--resume', load_from=str(other), **{'model.classes': 5})
    assert "trained from scratch: ['cls_head.weight is (3, 4), expected (5, 4)" in log(work_dir)
    assert last(work_dir)['meta']['epoch'] == 3


def test_a_test_of_a_config_that_resumes_loads_what_it_is_given(train, other, tmp_path):
    train('work')
    cfg = Config.fromstring(CONFIG, '.py')
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'work'), resume=True, load_from=str(other)))
    cfg.experiment_name = next(names)
    cfg.default_hooks.pop('average')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    expected = load(other)['state_dict']['cls_head.weight']
    assert torch.equal(runner.model.cls_head.weight, expected)


# Where the checkpoint is


@pytest.mark.parametrize('how', ['moved', 'copied'])
@pytest.mark.parametrize('elsewhere', [False, True], ids=['', 'saved elsewhere'])
def test_a_work_folder_that_was_moved_resumes(train, tmp_path, how, elsewhere):
    def options(disk):
        hook = dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2)
        if elsewhere:
            hook['out_dir'] = str(tmp_path / disk)
        return {'default_hooks.checkpoint': hook}

    whole = train('whole/run', **options('whole_disk'))
    old = train('old/run', breaks_at=2 * LENGTH + 1, **options('old_disk'))
    saved = tmp_path / 'old_disk/run' if elsewhere else old
    claim(saved / 'epoch_2.pth', best_ckpt=str(saved / 'best_acc_epoch_1.pth'))
    before = checkpoints(saved)
    for folder in ('old', 'old_disk')[: 1 + elsewhere]:
        new = tmp_path / folder.replace('old', 'new')
        (shutil.move if how == 'moved' else shutil.copytree)(tmp_path / folder, new)

    new = train('new/run', '--resume', **options('new_disk'))
    saved = tmp_path / 'new_disk/run' if elsewhere else new
    ends = [load(folder / 'epoch_3.pth') for folder in (saved, whole_saved(whole, elsewhere))]
    assert differences(*[{k: end[k] for k in ('state_dict', 'optimizer')} for end in ends]) == []
    assert checkpoints(saved) == {'epoch_2.pth', 'epoch_3.pth'}
    found = ends[0]['message_hub']['runtime_info']
    assert found['best_ckpt'] == str(saved / 'best_acc_epoch_1.pth')
    assert found['last_ckpt'] == str(saved / 'epoch_3.pth')
    if how == 'copied':
        assert checkpoints(tmp_path / ('old_disk/run' if elsewhere else 'old/run')) == before


def whole_saved(whole, elsewhere):
    return whole.parent.parent / 'whole_disk/run' if elsewhere else whole


@pytest.mark.parametrize('inside', [True, False])
def test_files_that_are_not_the_runs_own_are_left_alone(train, tmp_path, inside):
    """MMEngine removes the best checkpoint that a resumed one names when a better one comes."""
    work_dir = train('work', breaks_at=LENGTH + 1)
    named = str((work_dir if inside else tmp_path) / 'thesis.pth')
    ids = [1] if inside else ['../thesis']
    claim(work_dir / 'epoch_1.pth', best_ckpt=named, interrupted_ckpt=named, keep_ckpt_ids=ids)
    Path(named).touch()
    train('work', '--resume')
    found = infos(work_dir)
    assert found.get('best_ckpt') == (named if inside else None)
    assert found['keep_ckpt_ids'] == [2, 3]
    assert ('it does not count' in log(work_dir)) is not inside
    assert Path(named).exists() is not inside  # the regular checkpoint took an interrupted one's


@pytest.mark.parametrize('content', [None, '', '{}', '{}/', '{}/epoch', '/nowhere/epoch_9.pth'])
def test_without_a_checkpoint_that_is_named_the_newest_one_counts(train, content):
    work_dir = train('work', breaks_at=2 * LENGTH + 1)
    (work_dir / 'last_checkpoint').unlink()
    if content is not None:
        (work_dir / 'last_checkpoint').write_text(content.format(work_dir))
    torch.save({}, work_dir / 'best_acc_epoch_9.pth')  # none to go on from
    train('work', '--resume')
    assert f'goes on from its checkpoint {work_dir}/epoch_2.pth' in log(work_dir)
    assert f'the newest checkpoint beside it is {work_dir}/epoch_2.pth' in log(work_dir)
    assert differences(state(work_dir), state(train('whole'))) == []


def test_a_run_whose_checkpoints_are_gone_does_not_start_anew(train, other):
    work_dir = train('work', breaks_at=LENGTH + 1)
    (work_dir / 'epoch_1.pth').unlink()
    with pytest.raises(ValueError, match=r'epoch_1.pth, which is not there, .* bring it back, or'):
        train('work', '--resume', load_from=str(other))
    assert not checkpoints(work_dir)


@pytest.mark.parametrize('cls', [Runner, FlexibleRunner])
def test_the_first_rank_decides_for_all(cls, train, tmp_path, monkeypatch):
    """As on a network disk that does not show the file to this rank yet."""
    work_dir = train('work', breaks_at=LENGTH + 1)
    cfg = Config.fromstring(CONFIG, '.py')
    cfg.default_hooks.pop('average')
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'empty'), resume=True))
    cfg.experiment_name = next(names)
    told = [str(work_dir / 'epoch_1.pth'), True, 'decided elsewhere']
    monkeypatch.setattr(resuming, 'is_main_process', lambda: False)
    monkeypatch.setattr(resuming, 'broadcast_object_list', lambda data: data.__setitem__(0, told))
    runner = cls.from_cfg(cfg)
    runner.train()
    assert len(rates(tmp_path / 'empty')) == 2 * LENGTH


# What the config says counts

COSINE = dict(type='CosineAnnealingLR', by_epoch=True, begin=1, T_max=2, end=3)
WARMUP = dict(type='LinearLR', start_factor=0.1, begin=0, end=1, convert_to_iter_based=True)
STEPS = dict(type='MultiStepLR', milestones=[1, 3], by_epoch=True)
CHANGES = {
    'longer': ([COSINE], [COSINE | dict(T_max=4, end=5)], {}),
    'with a warm-up': (
        [WARMUP, COSINE | dict(convert_to_iter_based=True)],
        [WARMUP, COSINE | dict(convert_to_iter_based=True, T_max=4, end=5)],
        {},
    ),
    'other milestones': ([STEPS], [STEPS | dict(milestones=[2, 4])], {}),
    'other kind': ([STEPS], [dict(type='PolyLR', eta_min=0, by_epoch=False, end=20)], {}),
    'one more': ([STEPS], [STEPS, dict(type='ExponentialLR', gamma=0.5)], {}),
    'none any more': ([STEPS], None, {}),
    'a first one': (None, [STEPS], {}),
    'other rate': ([COSINE], [COSINE], {'optim_wrapper.optimizer.lr': 0.02}),
    'other constant rate': (None, None, {'optim_wrapper.optimizer.lr': 0.02}),
    'other batches': (
        [WARMUP, COSINE | dict(convert_to_iter_based=True)],
        [WARMUP, COSINE | dict(convert_to_iter_based=True)],
        {'train_dataloader.batch_size': 4},
    ),
    'default end': ([dict(type='LinearLR')], [dict(type='LinearLR')], {}),
}


@pytest.mark.parametrize('by_signal', [False, True], ids=['end of an epoch', 'middle of one'])
@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_schedule_counts_from_the_position_reached(train, change, by_signal):
    """The rates are those that the new config has there when it trains from the start."""
    before, after, options = CHANGES[change]
    stop = 2 * LENGTH + 2 * by_signal
    train('work', param_scheduler=before, breaks_at=stop + (not by_signal), by_signal=by_signal)
    options = {'train_cfg.max_epochs': 5, 'param_scheduler': after, **options}
    fresh = rates(train('fresh', **options))
    work_dir = train('work', '--resume', **options)
    batch = options.get('train_dataloader.batch_size', 2)
    assert len(fresh) == 5 * 2 * LENGTH // batch
    left = fresh[stop * 2 // batch :]
    assert rates(work_dir)[-len(left) :] == left
    assert len(rates(work_dir)) == stop + (not by_signal) + len(left)
    said = "the config's counts, from the position reached"
    if change == 'other constant rate':
        said = "settings are not those of the checkpoint (lr 0.1 -> 0.02): the config's count"
    assert said in log(work_dir)


def test_a_schedule_by_validations_cannot_be_changed(train):
    plateau = dict(type='ReduceOnPlateauLR', monitor='acc', rule='greater', patience=0)
    train('work', param_scheduler=[plateau], breaks_at=2 * LENGTH + 1, **VALIDATED)
    work_dir = train('work', '--resume', param_scheduler=[plateau], **VALIDATED)
    whole = train('whole', param_scheduler=[plateau], **VALIDATED)
    assert differences(state(whole), state(work_dir)) == []
    longer = {'train_cfg.max_epochs': 4, **VALIDATED}
    work_dir = train('work', '--resume', param_scheduler=[plateau], **longer)
    whole = train('longer', param_scheduler=[plateau], **longer)
    assert differences(state(whole), state(work_dir)) == []
    reason = r'factor 0.1 -> 0.5\) and depends on results of validations'
    with pytest.raises(ValueError, match=reason):
        train('work', '--resume', param_scheduler=[plateau | dict(factor=0.5)], **VALIDATED)


def test_changed_settings_of_the_optimizer_count_and_are_named(train):
    train('work', breaks_at=2 * LENGTH + 1)
    options = {'optim_wrapper.optimizer.weight_decay': 0.5, 'optim_wrapper.optimizer.momentum': 0.8}
    work_dir = train('work', '--resume', **options)
    (group,) = last(work_dir)['optimizer']['param_groups']
    assert (group['weight_decay'], group['momentum']) == (0.5, 0.8)
    text = log(work_dir)
    assert 'weight_decay 0.01 -> 0.5' in text
    assert 'momentum 0.9 -> 0.8' in text


def test_adams_scheduled_momentum_goes_on(train):
    options = {
        'optim_wrapper.optimizer': dict(type='AdamW', lr=0.1),
        'param_scheduler': [dict(type='LinearMomentum', start_factor=0.5, end=3)],
    }
    whole = train('whole', **options)
    train('work', breaks_at=2 * LENGTH + 1, **options)
    work_dir = train('work', '--resume', **options)
    assert differences(state(whole), state(work_dir)) == []
    assert 'not those' not in log(work_dir)


def test_nothing_left_to_train_is_said(train):
    work_dir = train('work')
    train('work', '--resume', **{'train_cfg.max_epochs': 2})
    said = 'epoch 3 is trained and train_cfg.max_epochs is 2: nothing is left to train'
    assert said in log(work_dir)


def test_nothing_left_to_train_is_said_by_iterations(train):
    sampler = dict(type='InfiniteSampler', shuffle=True)
    options = {'train_dataloader.sampler': sampler, 'default_hooks.checkpoint.by_epoch': False}
    train('work', train_cfg=dict(type='IterBasedTrainLoop', max_iters=3), **options)
    loop = dict(type='IterBasedTrainLoop', max_iters=2)
    work_dir = train('work', '--resume', train_cfg=loop, **options)
    assert 'iter 3 is trained and train_cfg.max_iters is 2: nothing is left' in log(work_dir)


def test_an_optimizer_of_another_kind_is_refused(train):
    train('work', breaks_at=2 * LENGTH + 1)
    adam = {'optim_wrapper.optimizer': dict(type='AdamW', lr=0.1)}
    with pytest.raises(ValueError, match=r'of another kind than AdamW, .* weights by load_from'):
        train('work', '--resume', **adam)


def test_a_copy_of_a_run_goes_on_from_its_own_files(train, tmp_path):
    original = train('original')
    copy = train('copy', breaks_at=2 * LENGTH + 1)
    (copy / 'last_checkpoint').write_bytes((original / 'last_checkpoint').read_bytes())
    train('copy', '--resume')
    assert f'goes on from its checkpoint {copy}/epoch_2.pth' in log(copy)
    assert differences(state(copy), state(original)) == []


def test_flexible_runners_decide_the_same(train, other):
    """Weights to start from, a moved folder and a changed schedule."""
    options = {'runner_type': 'FlexibleRunner', 'load_from': str(other)}
    saver = dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2)
    options['default_hooks'] = dict(checkpoint=saver)  # EMAHook needs the other runner
    whole = train('whole', **options, param_scheduler=[COSINE | dict(T_max=4, end=5)])
    train('work', '--resume', param_scheduler=[COSINE], breaks_at=LENGTH + 1, **options)
    assert f'from the weights of {other}' in log(whole.parent / 'work')
    moved = shutil.move(whole.parent / 'work', whole.parent / 'moved')
    train('moved', '--resume', param_scheduler=[COSINE | dict(T_max=4, end=5)], **options)
    assert rates(moved)[LENGTH + 1 :] == rates(whole)[LENGTH:]
    assert checkpoints(moved) == checkpoints(whole)
