"""The patches: each is still needed, applying all twice changes nothing, and each works."""

import importlib
import math
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from types import ModuleType, SimpleNamespace

import cv2
import mmcv
import mmengine
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms.processing import ColorJitter
from mmaction.models import localizers
from mmaction.models.heads import BaseHead, OmniHead, RGBPoseHead, TSNHead
from mmaction.registry import MODELS, OPTIM_WRAPPERS
from mmaction.structures import ActionDataSample
from mmaction.utils import dependency
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config, ConfigDict
from mmengine.dist import utils as dist_utils
from mmengine.evaluator import Evaluator
from mmengine.fileio import LocalBackend
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import FUNCTIONS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa import models
from mmsifa.commands.run_tool import run_tool
from mmsifa.engine import patches
from mmsifa.engine.patches import data, files, imports, mixed_precision, processes
from mmsifa.models import SIFA
from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights

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


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A folder with a model and data small enough to train in a test; yields the config's path."""
    folder = tmp_path_factory.mktemp('tiny')
    (folder / 'tiny_videos.py').write_text(TINY)
    (folder / 'tiny.py').write_text(CONFIG)
    sys.path.insert(0, str(folder))
    yield folder / 'tiny.py'
    sys.path.remove(str(folder))


@pytest.fixture(scope='module')
def build_runner(tiny):
    def build_runner(work_dir, name, **options):
        config = Config.fromfile(tiny)
        config.merge_from_dict({'work_dir': str(work_dir), 'experiment_name': name, **options})
        return Runner.from_cfg(config)

    return build_runner


@pytest.fixture(scope='module')
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


@pytest.fixture(scope='module')
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


def samples():
    return [ActionDataSample().set_gt_label(label) for label in (0, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('gap', 'error'),
    [
        ('models', "No module named 'mmaction.models.localizers.drn'"),
        ('load', 'HistoryBuffer was not an allowed global'),
        ('amp', 'only available training on gpu'),
        ('init_dist', 'Error'),  # its text depends on how torch was built
        ('wrap_model', 'device_ids and output_device arguments only work'),
        ('fsdp', 'Error'),  # as that of init_dist
        ('config_base', 'get external package'),
        ('head', 'BFloat16'),
        ('multimodal', 'Error'),  # of timm or of transformers, whichever is missing or too new
        pytest.param('hue', 'out of bounds for uint8'),
        ('write', 'the old content is lost'),
    ],
)
def test_upstream_still_has_the_gap(unpatched, gap, error):
    errors = Config.fromfile(unpatched / 'errors.json')
    assert error in errors.get(gap, 'it works: this patch may go')


def test_applying_twice_changes_nothing():
    def state():
        return (
            list(sys.meta_path), CheckpointLoader.__dict__['load_checkpoint'],
            OPTIM_WRAPPERS.get('AmpOptimWrapper'), dist_utils._init_dist_pytorch,
            MMDistributedDataParallel.__init__, Config._get_cfg_path, BaseHead.loss_by_feat,
            BaseHead.average_clip, Evaluator.process, Runner.build_dataloader,
            ColorJitter.adjust_hue,
        )  # fmt: skip

    before = state()
    patches.apply()
    assert state() == before


def test_building_drn_says_why_it_is_missing():
    with pytest.raises(ImportError, match='open-mmlab/mmaction2#2714'):
        MODELS.build(dict(type='DRN'))


def test_mmaction2_imports_beside_a_later_mmcv(monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '2.3.6')
    monkeypatch.delitem(sys.modules, 'mmaction')
    with pytest.raises(AssertionError, match=r'Please install mmcv.*<2\.2\.0'):
        importlib.import_module('mmaction')
    imports.patch_mmcv_limit.__wrapped__()  # past the cache
    assert 'mmaction' in sys.modules
    assert mmcv.__version__ == '2.3.6'


def test_a_real_drn_wins(tmp_path, monkeypatch):
    (tmp_path / 'drn').mkdir()
    (tmp_path / 'drn/__init__.py').touch()
    (tmp_path / 'drn/drn.py').write_text('DRN = "real"')
    monkeypatch.setattr(localizers, '__path__', [*localizers.__path__, str(tmp_path)])
    for name in ('mmaction.models.localizers.drn', 'mmaction.models.localizers.drn.drn'):
        monkeypatch.delitem(sys.modules, name)
    assert importlib.import_module('mmaction.models.localizers.drn.drn').DRN == 'real'


def test_no_finder_where_the_wheel_has_drn(tmp_path, monkeypatch):
    (tmp_path / 'models/localizers/drn').mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(imports.importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(sys, 'meta_path', [])
    imports.patch_missing_drn.__wrapped__()  # past the cache
    assert sys.meta_path == []


def test_multimodal_models_say_what_they_need_where_it_is_missing():
    with pytest.raises(ImportError, match='requires extra multi-modal dependencies'):
        MODELS.build(dict(type='VindLUVQA'))


@pytest.mark.parametrize(
    ('name', 'works'), [('find_pruneable_heads_and_indices', True), ('', False)]
)
def test_multimodal_models_are_left_alone_where_their_needs_are_met(monkeypatch, name, works):
    """With stand-ins: timm does not import beside every torch."""
    for package in ('timm', 'timm.models', 'timm.models.layers', 'transformers.modeling_utils'):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    setattr(sys.modules['transformers.modeling_utils'], name, None)
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    imports.patch_multimodal_import.__wrapped__()  # past the cache
    assert works == dependency.WITH_MULTIMODAL


@pytest.mark.parametrize(('factor', 'hue'), [(-0.1, 155), (0, 0), (0.1, 25), (-0.5, 53)])
def test_hue_turns_both_ways(factor, hue):
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    turned = ColorJitter.adjust_hue(red, factor).astype(np.uint8)
    assert abs(int(cv2.cvtColor(turned, cv2.COLOR_RGB2HSV)[0, 0, 0]) - hue) <= 1


@pytest.mark.slow
def test_hue_is_as_before_where_it_worked(unpatched):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for factor, expected in zip((0, 0.1, 0.25), np.load(unpatched / 'hue.npy'), strict=True):
        np.testing.assert_array_equal(ColorJitter.adjust_hue(image, factor), expected)


def test_hue_is_left_alone_where_it_works():
    before = ColorJitter.adjust_hue
    data.patch_hue_overflow.__wrapped__()  # past the cache
    assert ColorJitter.adjust_hue is before


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
def test_a_loader_without_workers_leaves_out_what_is_for_these(runner):
    config = ConfigDict(
        dataset=list(range(5)), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
        persistent_workers=True, prefetch_factor=3, timeout=9, multiprocessing_context='spawn',
    )  # fmt: skip
    assert list(runner.build_dataloader(dict(config, num_workers=0))) == [[0, 1], [2, 3], [4]]
    loader = runner.build_dataloader(dict(config, num_workers=1))
    assert (loader.persistent_workers, loader.prefetch_factor, loader.timeout) == (True, 3, 9)


def test_the_op_is_among_mmengines_functions():
    assert FUNCTIONS.get('inter_frame_attention') is inter_frame_attention
    assert FUNCTIONS.get('inter_frame_attention_weights') is inter_frame_attention_weights
    frames, offset = torch.rand(1, 3, 4, 5, 5), torch.zeros(1, 2, 18, 5, 5)
    args = dict(query=frames[:, :-1], value=frames[:, 1:], offset=offset)
    out = FUNCTIONS.build(dict(type='inter_frame_attention', _scope_='mmengine', **args))
    assert torch.equal(out, inter_frame_attention(**args))


def test_modules_are_among_mmaction2s_models():
    for name in set(models.__all__) - {'add_sifa', 'ClipNetwork'}:
        assert MODELS.get(name) is getattr(models, name)


def test_mmengine_counts_the_multiply_adds_of_the_op():
    n, t, c, h, w = 2, 3, 8, 5, 6
    block = SIFA(channels=8, deformable=False)
    info = get_model_complexity_info(block, inputs=(torch.rand(n, t + 1, c, h, w),))
    assert info['flops'] == n * t * h * w * 9 * c * (4 + 1 + 1)


# Files: checkpoints that are read and written, and the bases of configs


def test_resume_restores_the_history_and_goes_on(build_runner, trained, tmp_path):
    checkpoint, losses = trained
    options = {'resume': str(checkpoint), 'train_cfg.max_epochs': 2}
    runner = build_runner(tmp_path, 'resumed', **options)
    runner.train()
    history, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(history) == 2 * len(losses) == 8
    np.testing.assert_array_equal(history[:4], losses)

    # What is saved again names no stand-in, so that MMEngine reads it without mmsifa.
    saved = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / 'epoch_2.pth')
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in saved
    assert not [name for name in saved if name.startswith('mmsifa')]


def test_the_test_tool_loads_a_checkpoint(tiny, trained, tmp_path, capsys):
    run_tool('test', [str(tiny), str(trained[0]), '--work-dir', str(tmp_path)])
    assert 'acc/top1' in capsys.readouterr().out


def test_local_files_are_written_whole(tmp_path):
    LocalBackend().put(b'content', str(tmp_path / 'new folder/file'))
    assert (tmp_path / 'new folder/file').read_bytes() == b'content'


@pytest.fixture
def installed_configs(tmp_path, monkeypatch):
    folder = tmp_path / 'mmsifa/.mim/configs'
    (folder / '_base_').mkdir(parents=True)
    (folder / '_base_/model.py').write_text("model = dict(type='Recognizer2D')")
    (folder / 'sifa_tiny.py').write_text("_base_ = '_base_/model.py'\nhead = dict(type='TSNHead')")
    monkeypatch.setattr(files, 'config_folder', lambda _: folder)
    return tmp_path / 'leaf.py'


@pytest.mark.parametrize('base', ['sifa_tiny.py', '_base_/model.py'], ids=['flat', 'subfolder'])
def test_a_config_inherits_from_ours(installed_configs, base):
    installed_configs.write_text(f"_base_ = 'mmsifa::{base}'")
    assert Config.fromfile(installed_configs).model.type == 'Recognizer2D'


def test_what_a_config_takes_from_its_base_is_built_by_mmaction(installed_configs):
    installed_configs.write_text("_base_ = 'mmsifa::sifa_tiny.py'\nhead = _base_.head")
    config = Config.fromfile(installed_configs)
    head = mmengine.registry.MODELS.build({**config.head, 'num_classes': 2, 'in_channels': 2})
    assert isinstance(head, TSNHead)


def test_an_unknown_base_lists_ours(installed_configs):
    installed_configs.write_text("_base_ = 'mmsifa::sifa_big.py'")
    with pytest.raises(FileNotFoundError, match=r"mmsifa::sifa_big.py.*\['sifa_tiny.py'\]"):
        Config.fromfile(installed_configs)


def test_other_bases_are_found_as_before(installed_configs):
    (installed_configs.parent / 'near.py').write_text('x = 1')
    installed_configs.write_text("_base_ = ['mmaction::_base_/default_runtime.py', 'near.py']")
    config = Config.fromfile(installed_configs)
    assert (config.default_scope, config.x) == ('mmaction', 1)


def test_a_base_of_mmaction2_is_found_without_its_metafiles(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.utils.load', lambda path: pytest.fail(f'read {path}'))
    monkeypatch.setattr('mmengine.config.config.is_installed', pytest.fail)
    (tmp_path / 'leaf.py').write_text("_base_ = 'mmaction::_base_/default_runtime.py'")
    assert Config.fromfile(tmp_path / 'leaf.py').default_scope == 'mmaction'
    monkeypatch.undo()
    (tmp_path / 'leaf.py').write_text("_base_ = 'mmaction::_base_/default.py'")
    with pytest.raises(FileNotFoundError, match=r'configs/_base_/default\.py'):
        Config.fromfile(tmp_path / 'leaf.py')


# Mixed precision


def build_amp(**options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    cfg = dict(type='AmpOptimWrapper', optimizer=optimizer, **options)
    return OPTIM_WRAPPERS.build(cfg)


@pytest.mark.no_gpu
def test_amp_trains_in_bfloat16_on_the_cpu(tiny, tmp_path):
    run_tool('train', [str(tiny), '--amp', '--work-dir', str(tmp_path)])
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    history, _ = checkpoint['message_hub']['log_scalars']['train/loss'].data
    assert sys.modules['tiny_videos'].dtypes[-1] == torch.bfloat16
    assert len(history) == 4
    assert np.isfinite(history).all()


@pytest.mark.no_gpu
def test_amp_on_the_cpu_refuses_float16():
    with pytest.raises(ValueError, match='expects dtype bfloat16, got float16'):
        build_amp(dtype='float16')


@pytest.mark.no_gpu
def test_a_run_resumes_on_the_other_device():
    on_cpu_, on_gpu = build_amp(), build_amp()
    on_gpu.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)  # enabled, as on a GPU
    on_gpu.load_state_dict(on_cpu_.state_dict())
    assert on_gpu.loss_scaler.get_scale() == 8
    on_cpu_.load_state_dict(on_gpu.state_dict())
    assert on_cpu_.loss_scaler.state_dict() == {}


def test_amp_on_a_gpu_is_upstreams(monkeypatch):
    received = {}
    monkeypatch.setattr(mixed_precision, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(
        mmengine.optim.AmpOptimWrapper, '__init__', lambda self, **options: received.update(options)
    )
    mixed_precision.AmpOptimWrapper(loss_scale=8.0, dtype='float16', optimizer='SGD')
    assert received == dict(loss_scale=8.0, dtype='float16', use_fsdp=False, optimizer='SGD')


@pytest.mark.gpu
def test_a_run_of_the_cpu_resumes_on_a_gpu():
    wrapper = build_amp(loss_scale=8.0)
    wrapper.load_state_dict({**wrapper.state_dict(), 'loss_scaler': {}})
    assert wrapper.loss_scaler.get_scale() == 8


@pytest.mark.parametrize('head', [TSNHead, OmniHead, RGBPoseHead])
def test_heads_train_on_bfloat16_scores(head):
    torch.manual_seed(0)
    scores = torch.randn(2, 3).bfloat16().requires_grad_()
    if head is RGBPoseHead:
        losses = head(3, (4, 4)).loss_by_feat({'rgb': scores, 'pose': scores}, samples())
        loss = losses['rgb_loss_cls']
    else:
        classes = dict(image_classes=3, video_classes=3) if head is OmniHead else {'num_classes': 3}
        loss = head(in_channels=4, **classes).loss_by_feat(scores, samples())['loss_cls']
    expected = torch.nn.functional.cross_entropy(scores.float(), torch.tensor([0, 2]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad.dtype == torch.bfloat16


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_other_scores_are_left_alone(dtype):
    head = TSNHead(3, 4)
    head.loss_cls.forward = lambda scores, labels: scores
    scores = torch.zeros(2, 3, dtype=dtype)
    assert head.loss_by_feat(scores, samples())['loss_cls'] is scores


def test_heads_are_left_alone_where_they_work():
    before = BaseHead.loss_by_feat
    mixed_precision.patch_bfloat16_scores.__wrapped__()  # past the cache
    assert BaseHead.loss_by_feat is before


# Scores and metrics


@pytest.mark.parametrize('average_clips', ['prob', 'score', None])
def test_heads_of_several_classes_score_each_by_itself(average_clips):
    head = TSNHead(3, 4, multi_class=True, average_clips=average_clips)
    clips = torch.randn(2, 4, 3)  # 4 clips of 2 videos
    found = [s.pred_score for s in head.predict_by_feat(clips.flatten(0, 1), samples())]
    expected = {'prob': clips.sigmoid().mean(1), 'score': clips.mean(1), None: clips}
    torch.testing.assert_close(torch.stack(found), expected[average_clips])


def test_heads_of_one_class_score_by_a_softmax():
    clips = torch.randn(2, 4, 3)
    head = TSNHead(3, 4, average_clips='prob')
    found = [s.pred_score for s in head.predict_by_feat(clips.flatten(0, 1), samples())]
    torch.testing.assert_close(torch.stack(found), clips.softmax(2).mean(1))


@pytest.mark.parametrize('score', [math.nan, math.inf, -math.inf])
def test_no_metric_takes_scores_that_are_no_numbers(score):
    evaluator = Evaluator([dict(type='mmaction.AccMetric'), dict(type='mmaction.ConfusionMatrix')])
    good, bad = (dict(gt_label=torch.tensor([0]), pred_score=torch.ones(3)) for _ in range(2))
    bad.update(filename='videos/b.mp4', pred_score=torch.tensor([0.1, score, 0.2]))
    with pytest.raises(
        FloatingPointError, match=r'scores of samples videos/b\.mp4 are NaN or infinite'
    ):
        evaluator.process([dict(good, filename='videos/a.mp4'), bad])
    with pytest.raises(FloatingPointError, match=r"samples unknown \(name 'filename' in the meta_"):
        evaluator.process([dict(bad, filename=None)])
    bad['pred_score'] = dict(rgb=torch.ones(3), pose=bad['pred_score'])  # as of RGBPoseHead
    with pytest.raises(
        FloatingPointError, match=r'scores of samples videos/b\.mp4 are NaN or infinite'
    ):
        evaluator.process([bad])


def test_no_metric_takes_the_label_of_a_list_without_labels(tmp_path):
    samples = [dict(gt_label=torch.tensor([-1]), pred_score=torch.ones(3), filename='a.mp4')]
    dump = dict(type='DumpResults', out_file_path=str(tmp_path / 'dump.pkl'))
    with pytest.raises(
        ValueError, match=r'AccMetric needs labels from 0 on, got -1.* for samples a\.mp4'
    ):
        Evaluator([dict(type='mmaction.AccMetric'), dump]).offline_evaluate(samples)
    Evaluator(dump).offline_evaluate(samples)
    assert mmengine.load(tmp_path / 'dump.pkl')[0]['filename'] == 'a.mp4'


def test_features_in_the_place_of_scores_are_dumped_as_before(tmp_path):
    dump = dict(type='DumpResults', out_file_path=str(tmp_path / 'dump.pkl'))
    Evaluator(dump).offline_evaluate([torch.tensor([1.0, math.nan])])
    assert len(mmengine.load(tmp_path / 'dump.pkl')) == 1


# Several processes on the CPU


@pytest.mark.slow
def test_two_processes_train_one_model_on_the_cpu(tiny, root, tmp_path, forked):
    hook = f"custom_hooks = [dict(type='KeepWeights', folder={str(tmp_path)!r})]"
    config = tmp_path / 'two.py'
    config.write_text(f'_base_ = {str(tiny)!r}\n{hook}')
    torchrun = shutil.which('torchrun', path=forked['PATH'])
    launch = [torchrun, '--standalone', '--nproc-per-node', '2', '-m']
    command = [*launch, 'mmsifa', 'run', 'train', str(config), '--launcher', 'pytorch', '--amp']
    paths = os.pathsep.join([str(root), str(tiny.parent)])
    variables = {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths}
    done = subprocess.run(
        [*command, '--work-dir', str(tmp_path / 'work')],
        env=forked | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert '[1][2/2]' in done.stdout  # 4 videos, 2 processes

    (before, backend), (first, _), (second, _) = (
        torch.load(tmp_path / name) for name in ('before0.pt', 'after0.pt', 'after1.pt')
    )
    assert backend == 'gloo'
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=0, atol=0)
    weight = 'module.backbone.conv.weight'
    assert not torch.equal(before[weight], first[weight])


@pytest.mark.no_gpu
@pytest.mark.parametrize('asked', ['nccl', 'mpi'])
@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_every_launcher_takes_gloo_for_nccl(launcher, asked, monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.setenv(name, '0')
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.setenv(name, '1')
    for name in ('OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_NODELIST', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')
    taken = []
    monkeypatch.setattr(
        dist_utils.torch_dist, 'init_process_group', lambda backend: taken.append(backend)
    )
    before = torch.cuda.set_device
    getattr(dist_utils, f'_init_dist_{launcher}')(asked)
    assert taken == ['gloo' if asked == 'nccl' else asked]
    assert torch.cuda.set_device is before


@pytest.mark.parametrize(('device', 'device_ids'), [('cpu', None), ('meta', [0])])
def test_only_models_on_the_cpu_lose_their_device_ids(device, device_ids, monkeypatch):
    received = {}

    def record(self, **options):
        received.update(options)

    monkeypatch.setattr(MMDistributedDataParallel.__base__, '__init__', record)
    monkeypatch.setattr(MMDistributedDataParallel, '__setattr__', lambda *args: None)
    MMDistributedDataParallel(module=torch.nn.Linear(1, 1, device=device), device_ids=[0])
    assert received['device_ids'] == device_ids


def test_launchers_are_left_alone_where_a_gpu_is_there(monkeypatch):
    def launcher(backend):
        torch.cuda.set_device(0)

    for name in ('pytorch', 'mpi', 'slurm'):
        monkeypatch.setattr(dist_utils, f'_init_dist_{name}', launcher)
    monkeypatch.setattr(MMDistributedDataParallel, '__init__', MMDistributedDataParallel.__init__)
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    processes.patch_cpu_processes.__wrapped__()  # past the cache
    assert dist_utils._init_dist_pytorch is launcher
