"""Hooks for tests of several processes; training finds them with the tests' folder on its path."""

import hashlib
import json
import os
import signal
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmaction.registry import HOOKS


def files_of(data_batch) -> list[str]:
    return [Path(sample.metainfo['filename']).name for sample in data_batch['data_samples']]


@HOOKS.register_module()
class RankRecord(Hook):
    """Write what a rank saw and ended with to ``OUT/rankN.json``, its first weights to a file."""

    priority = 'VERY_LOW'

    def __init__(self, out: str):
        self.out = Path(out)
        self.seen: dict = {'trained': [], 'validated': {}}

    def before_train(self, runner):
        self.out.mkdir(parents=True, exist_ok=True)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.model = model
        if get_rank() == 0:
            torch.save(model.state_dict(), self.out / 'initial.pth')

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
        record = dict(self.seen, world_size=get_world_size(), weights=weights.hexdigest())
        (self.out / f'rank{get_rank()}.json').write_text(json.dumps(record))


@HOOKS.register_module()
class KillRank(Hook):
    """End one rank with SIGKILL when it has made a number of iterations."""

    priority = 'VERY_LOW'

    def __init__(self, rank: int, iters: int):
        self.rank, self.iters = rank, iters

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == self.rank and runner.iter + 1 == self.iters:
            os.kill(os.getpid(), signal.SIGKILL)
