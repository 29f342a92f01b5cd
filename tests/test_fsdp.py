"""configs/fsdp, made small, on two ranks: what FSDP shares out, saves and resumes."""

import os
import shutil

import pytest
import torch
from cluster_page import ROOT, command, environment, records, same, weights
from mmaction.registry import MODELS
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.runner import FlexibleRunner

from mmsifa import compat_fsdp
from mmsifa.engine.fsdp import wrap_blocks

CONFIGS = sorted((ROOT / 'configs/fsdp').glob('*.py'))


@pytest.fixture(scope='module')
def place(tmp_path_factory, shrink):
    """A folder in which the page's command runs, with its config, small."""
    folder = tmp_path_factory.mktemp('fsdp')
    cfg = shrink(Config.fromfile(ROOT / 'configs/fsdp/sifa_swin_l_k400.py'))
    cfg.train_dataloader.batch_size = 1  # 3 clips: two iterations of two ranks
    cfg.train_cfg.max_epochs = 2
    cfg.randomness = dict(seed=0)
    cfg.default_hooks.shards = dict(type='ShardRecord')
    cfg.custom_imports.imports = ['mmsifa', 'rank_hooks']
    (folder / 'configs/fsdp').mkdir(parents=True)
    cfg.dump(folder / 'configs/fsdp/sifa_swin_l_k400.py')
    return folder


@pytest.fixture(scope='module')
def train(place, run):
    def train(work, *more):
        replaced = {'--nproc-per-node 8': '--nproc-per-node 2'}
        words = command('large models', replaced, '--work-dir', str(work), *more)
        return run(*words, cwd=place, env=environment()).stdout

    return train


@pytest.fixture(scope='module')
def trained(place, train):
    work = place / 'work'
    assert 'AmpOptimWrapper' in train(work)
    return work


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_trains_the_network_of_its_twin(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and line[0] != '#']
    assert len(lines) <= 15
    cfg, twin = Config.fromfile(path), Config.fromfile(ROOT / 'configs' / path.name)
    assert cfg.runner_type == 'FlexibleRunner'
    for key in twin:
        assert cfg[key] == twin[key], key


def test_each_rank_holds_half(place, trained):
    cfg = Config.fromfile(place / 'configs/fsdp/sifa_swin_l_k400.py')
    with torch.device('meta'):
        whole = sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())
    shards = records(trained, 'shard')
    assert len(shards) == 2
    assert sum(shard['parameters'] for shard in shards) == pytest.approx(whole, rel=0.01)  # padding
    for shard in shards:
        assert shard['parameters'] == pytest.approx(whole / 2, rel=0.01)
        assert shard['optimizer'] == 2 * shard['parameters']  # Adam's two averages


def test_checkpoint_fits_the_network_without_fsdp(place, trained):
    cfg = Config.fromfile(place / 'configs/fsdp/sifa_swin_l_k400.py')
    model = MODELS.build(cfg.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights(trained / 'epoch_2.pth'))
    assert not same(before, model.state_dict())


def test_resumed_run_ends_as_if_it_had_not_stopped(place, trained, train):
    work = place / 'resumed'
    shutil.copytree(trained, work)
    (work / 'epoch_2.pth').unlink()
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    assert 'resumed epoch: 1, iter: 2' in train(work, '--resume')
    assert same(weights(work / 'epoch_2.pth'), weights(trained / 'epoch_2.pth'))
    assert not same(weights(work / 'epoch_1.pth'), weights(trained / 'epoch_2.pth'))


def test_blocks_are_cut_and_nothing_else():
    cfg = Config.fromfile(ROOT / 'configs/fsdp/sifa_swin_l_k400.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    cut = [name for name, module in model.named_modules() if wrap_blocks(module, False, 0)]
    assert len(cut) == sum(model.backbone.depths) == 24
    assert all(wrap_blocks(module, True, 0) for module in model.modules())
