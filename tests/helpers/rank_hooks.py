"""Hooks for tests of several processes; training finds them with the tests' folder on its path."""

import atexit
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import torch
from mmaction.registry import HOOKS
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook

from mmsifa.engine.hooks import PreemptionHook
from mmsifa.engine.model_wrappers import without_wrapper


def write(runner, name: str, record: dict) -> None:
    folder = Path(runner.work_dir, 'ranks')
    folder.mkdir(exist_ok=True)
    (folder / f'{name}{get_rank()}.json').write_text(json.dumps(record))


def files_of(data_batch) -> list[str]:
    return [Path(sample.metainfo['filename']).name for sample in data_batch['data_samples']]


@HOOKS.register_module()
class RankRecord(Hook):
    """Write what a rank saw and ended with to ``ranks/rankN.json``, its first weights beside it."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.seen: dict = {'trained': [], 'validated': {}}
        self.model = without_wrapper(runner.model)
        write(runner, 'started', dict(world_size=get_world_size()))
        torch.save(self.model.state_dict(), f'{runner.work_dir}/ranks/initial{get_rank()}.pth')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen['trained'].append(files_of(data_batch))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scores = [sample.pred_score.tolist() for sample in outputs]
        self.seen['validated'].update(zip(files_of(data_batch), scores, strict=True))

    def after_val_epoch(self, runner, metrics=None):
        self.seen['metrics'] = metrics

    def after_train(self, runner):
        weights = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            weights.update(tensor.cpu().contiguous().numpy().tobytes())
        world = dict(world_size=get_world_size(), node=os.environ.get('SLURM_NODEID'))
        write(runner, 'rank', dict(self.seen, weights=weights.hexdigest(), **world))


@HOOKS.register_module()
class ShardRecord(Hook):
    """Write how many numbers of parameters and optimizer a rank holds to ``ranks/shardN.json``."""

    def after_train(self, runner):
        optimizer = runner.optim_wrapper.optimizer
        state = [x for s in optimizer.state.values() for x in s.values() if x.dim()]
        record = dict(
            parameters=sum(parameter.numel() for parameter in runner.model.parameters()),
            optimizer=sum(x.numel() for x in state),
        )
        write(runner, 'shard', record)


@HOOKS.register_module()
class KillRank(Hook):
    """Send a signal to one rank when it has made a number of iterations, by default SIGKILL."""

    priority = 'VERY_LOW'

    def __init__(self, rank: int, iters: int, number: str = 'SIGKILL'):
        self.rank, self.iters, self.signal = rank, iters, signal.Signals[number]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == self.rank and runner.iter + 1 == self.iters:
            write(runner, 'killed', dict(time=time.time()))
            os.kill(os.getpid(), self.signal)


@HOOKS.register_module()
class SignalJob(Hook):
    """Let Slurm send USR1 to the job: at its first start during training, at others around it.

    At the second start before :class:`mmsifa.engine.hooks.PreemptionHook`, whose priority is lower,
    can take it; at the third when training is over.
    """

    priority = 'VERY_LOW'

    def __init__(self, iters: int):
        self.iters = iters
        self.start = int(os.environ.get('SLURM_RESTART_COUNT', 0))

    def _send(self, came):
        if get_rank() == 0:
            # scancel is part of the job and may end of the signal, too
            subprocess.run(['scancel', '--signal=USR1', os.environ['SLURM_JOB_ID']])
        end = time.monotonic() + 60
        while not came():
            assert time.monotonic() < end, 'no signal came'
            time.sleep(0.05)

    def before_run(self, runner):
        if self.start == 1:
            self._send(self._held_back)
        if self.start == 2 and get_rank() == 0:
            atexit.register(self._send, self._held_back)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.start == 0 and runner.iter + 1 == self.iters:
            (hook,) = (hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
            self._send(lambda: hook.received)

    def _held_back(self) -> bool:
        return signal.SIGUSR1 in signal.sigpending()
