"""Each patch is still needed, applying all twice changes nothing; imports and loaders work."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms.processing import ColorJitter
from mmaction.models import localizers
from mmaction.models.heads import BaseHead
from mmaction.registry import MODELS, OPTIM_WRAPPERS
from mmaction.utils import dependency
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config, ConfigDict
from mmengine.dist import utils as dist_utils
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import FUNCTIONS
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa import models
from mmsifa.engine import patches
from mmsifa.engine.patches import data, imports
from mmsifa.models import SIFA
from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights


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
