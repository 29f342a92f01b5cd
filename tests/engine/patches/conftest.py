"""A tiny model and its data, and what upstream does without the patches."""

import os
import subprocess
import sys
from collections import OrderedDict

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

TINY = """
import torch
from mmaction.registry import DATASETS, HOOKS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.hooks import Hook

dtypes = []


@MODELS.register_module()
class TinyBackbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        x = self.conv(x)
        dtypes.append(x.dtype)
        return x


@DATASETS.register_module()
class TinyVideos(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, i):
        frames = torch.full((2, 3, 8, 8), 60 * i, dtype=torch.uint8)
        return dict(inputs=frames, data_samples=ActionDataSample().set_gt_label(i % 3))


@HOOKS.register_module()
class KeepWeights(Hook):
    def __init__(self, folder):
        self.folder = folder

    def keep(self, runner, name):
        backend = torch.distributed.get_backend() if runner.distributed else None
        weights = dict(runner.model.state_dict())
        torch.save((weights, backend), f'{self.folder}/{name}{runner.rank}.pt')

    def before_train(self, runner):
        self.keep(runner, 'before')

    def after_train(self, runner):
        self.keep(runner, 'after')
"""
CONFIG = """
custom_imports = dict(imports=['tiny_videos'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer2D',
    backbone=dict(type='TinyBackbone'),
    cls_head=dict(type='TSNHead', num_classes=3, in_channels=4, topk=(1,), average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0] * 3, std=[255] * 3))
train_dataloader = dict(batch_size=1, dataset=dict(type='TinyVideos'), num_workers=0,
                        sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=1, dataset=dict(type='TinyVideos'), num_workers=0,
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='AccMetric', metric_list=('top_k_accuracy',),
                      metric_options=dict(top_k_accuracy=dict(topk=(1,))))
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False)
default_hooks = dict(runtime_info=dict(type='RuntimeInfoHook'),
                     logger=dict(type='LoggerHook', interval=1),
                     checkpoint=dict(type='CheckpointHook', interval=1))
"""


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_run(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """A folder with a model and data small enough to train in a test; yields the config's path."""
    folder = tmp_path_factory.mktemp('tiny')
    (folder / 'tiny_videos.py').write_text(TINY)
    (folder / 'tiny.py').write_text(CONFIG)
    sys.path.insert(0, str(folder))
    yield folder / 'tiny.py'
    sys.path.remove(str(folder))


@pytest.fixture(scope='session')
def build_runner(tiny):
    def build_runner(work_dir, name, **options):
        config = Config.fromfile(tiny)
        config.merge_from_dict({'work_dir': str(work_dir), 'experiment_name': name, **options})
        return Runner.from_cfg(config)

    return build_runner


@pytest.fixture(scope='session')
def trained(build_runner, tmp_path_factory):
    """The checkpoint of one epoch, and the losses that it must bring back."""
    work_dir = tmp_path_factory.mktemp('trained')
    runner = build_runner(work_dir, 'first')
    runner.train()
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    return work_dir / 'epoch_1.pth', losses.copy()


UNPATCHED = """
import io, json, os, resource, sys, types
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

errors = {}


def attempt(name, function):
    try:
        function()
    except BaseException as error:
        errors[name] = f'{type(error).__name__}: {error}'


def load():
    torch.save(HistoryBuffer([0.5], [1]), 'history.pth')
    CheckpointLoader.load_checkpoint('history.pth', 'cpu', None)


def amp():
    from mmengine.optim import AmpOptimWrapper
    AmpOptimWrapper(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1))


def config_base():
    open('leaf.py', 'w').write("_base_ = 'mmsifa::base.py'")
    Config.fromfile('leaf.py')


def init_dist():
    from mmengine.dist import init_dist
    init_dist('pytorch')


def wrap_model():
    from mmengine.model import MMDistributedDataParallel
    torch.distributed.init_process_group('gloo')
    MMDistributedDataParallel(torch.nn.Linear(1, 1), device_ids=[0])


def fsdp():
    from mmengine.model import MMFullyShardedDataParallel
    MMFullyShardedDataParallel(torch.nn.Linear(1, 1), device_id=0)


def models():
    import mmaction.models


def head():
    drn = types.ModuleType('drn')
    drn.DRN = None
    package = 'mmaction.models.localizers.drn'
    sys.modules.update({package: drn, package + '.drn': drn})
    from mmaction.utils import dependency
    dependency.WITH_MULTIMODAL = False
    from mmaction.models.heads import TSNHead
    from mmaction.structures import ActionDataSample
    samples = [ActionDataSample().set_gt_label(0)]
    TSNHead(3, 4).loss_by_feat(torch.zeros(1, 3, dtype=torch.bfloat16), samples)


def multimodal():
    import mmaction.models.multimodal.vindlu


def hue():
    from mmaction.datasets.transforms.processing import ColorJitter
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.save('hue.npy', [ColorJitter.adjust_hue(image, factor) for factor in (0, 0.1, 0.25)])
    ColorJitter.adjust_hue(image, -0.1)


def write():
    from mmengine.fileio import LocalBackend
    with open('checkpoint', 'wb') as file:
        file.write(b'the old content')
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, limit))
    try:
        LocalBackend().put(b'the new content', 'checkpoint')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with open('checkpoint', 'rb') as file:
            assert file.read() == b'the old content', 'the old content is lost'


for function in (load, amp, config_base, init_dist, wrap_model, fsdp, models, head, multimodal,
                 hue, write):
    attempt(function.__name__, function)
json.dump(errors, open('errors.json', 'w'))
"""


@pytest.fixture(scope='session')
def unpatched(tmp_path_factory):
    """What upstream does by itself on a machine without a GPU; yields the folder of its results."""
    folder = tmp_path_factory.mktemp('unpatched')
    (folder / 'unpatched.py').write_text(UNPATCHED)
    variables = {
        'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'RANK': '0', 'LOCAL_RANK': '0',
        'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '0',
    }  # fmt: skip
    command = [sys.executable, 'unpatched.py']
    subprocess.run(command, cwd=folder, env=os.environ | variables, check=True)
    return folder
