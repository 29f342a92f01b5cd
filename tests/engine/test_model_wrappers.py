"""configs/fsdp, made small, on two ranks: what FSDP shares out, saves and resumes."""

import re
from types import SimpleNamespace

import pytest
import torch
from cluster_page import PAGE, ROOT, command, environment, records, same, weights
from mmaction.registry import MODELS
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.model import MMFullyShardedDataParallel
from mmengine.runner import FlexibleRunner

from mmsifa.engine.model_wrappers import wrap_blocks
from mmsifa.engine.patches import processes

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
def train(place, run, forked):
    def train(work, *more, **kwargs):
        replaced = {'--nproc-per-node 8': '--nproc-per-node 2'}
        words = command('large models', replaced, '--work-dir', str(work), *more)
        return run(*words, cwd=place, env=environment(PATH=forked['PATH']), **kwargs)

    return train


@pytest.fixture(scope='module')
def trained(place, train):
    work = place / 'work'
    assert 'AmpOptimWrapper' in train(work).stdout
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


def test_run_stopped_in_an_epoch_ends_as_if_it_had_not_been(place, trained, train):
    kill = [f'default_hooks.kill.{x}' for x in ('type=KillRank', 'rank=1', 'iters=3')]
    kill += ['default_hooks.kill.number=SIGUSR1', 'default_hooks.preemption.interval=1']
    stop = ('--cfg-options', *kill)
    work = place / 'stopped'
    done = train(work, *stop, check=False)
    assert done.returncode == 1  # torchrun's
    assert 'Stopped by a signal after iteration 3' in done.stdout
    assert not (work / 'epoch_2.pth').exists()
    assert 'resumed epoch: 1, iter: 3' in train(work, '--resume').stdout
    assert same(weights(work / 'epoch_2.pth'), weights(trained / 'epoch_2.pth'))


def test_page_shows_the_lines_of_the_config():
    (snippet,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    cfg = Config.fromfile(ROOT / 'configs/fsdp/sifa_swin_l_k400.py')
    shown = Config.fromstring(snippet, '.py')
    assert list(shown) == ['runner_type', 'strategy']
    assert all(cfg[key] == shown[key] for key in shown)


def test_blocks_are_cut_and_nothing_else():
    cfg = Config.fromfile(ROOT / 'configs/fsdp/sifa_swin_l_k400.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    cut = [name for name, module in model.named_modules() if wrap_blocks(module, False, 0)]
    assert len(cut) == sum(model.backbone.depths) == 24
    assert all(wrap_blocks(module, True, 0) for module in model.modules())


# The patches


def patch_again(name):
    getattr(processes, name).__wrapped__()  # past the cache


def saved_position(save_checkpoint) -> dict:
    """What a runner in the second epoch saves that is asked to save the end of the first."""
    saved = {}

    def save(filename, extra_ckpt, callback, **kwargs):
        callback(extra_ckpt)
        saved.update(extra_ckpt['meta'])

    runner = SimpleNamespace(epoch=1, iter=2, cfg=Config(), experiment_name='', _hooks=[])
    runner.train_dataloader = SimpleNamespace(dataset=None)
    runner.message_hub = SimpleNamespace(state_dict=dict)
    runner.strategy = SimpleNamespace(save_checkpoint=save)
    runner.call_hook = lambda name, **kwargs: [
        getattr(hook, name)(runner, **kwargs) for hook in runner._hooks
    ]
    save_checkpoint(runner, 'folder', 'name', meta=dict(epoch=1, iter=2), by_epoch=True)
    assert runner._hooks == []
    return {key: saved[key] for key in ('epoch', 'iter')}


def test_flexible_runner_saves_the_position_it_is_given():
    assert saved_position(FlexibleRunner.save_checkpoint) == dict(epoch=1, iter=2)
    upstream = FlexibleRunner.save_checkpoint.__wrapped__
    assert saved_position(upstream) == dict(epoch=2, iter=2), 'this patch may go'


def test_upstream_gives_the_optimizers_state_in_an_order_of_the_past(monkeypatch):
    given = []
    strategy = SimpleNamespace(model='model', optim_wrapper=SimpleNamespace(optimizer='optimizer'))
    strategy.optim_wrapper.load_state_dict = lambda state: None
    monkeypatch.setattr(
        MMFullyShardedDataParallel.__base__,
        'optim_state_dict_to_load',
        lambda *args: given.append(args),
    )
    FSDPStrategy.load_optim_state_dict.__wrapped__(strategy, 'state')
    assert given == [('state', 'model', 'optimizer')], 'this patch may go'


def test_fsdp_is_upstreams_where_a_gpu_is_there(monkeypatch):
    init, init_state_dict_cfg = object(), object()
    monkeypatch.setattr(MMFullyShardedDataParallel, '__init__', init)
    monkeypatch.setattr(FSDPStrategy, '_init_state_dict_cfg', init_state_dict_cfg)
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    patch_again('patch_cpu_fsdp')
    assert MMFullyShardedDataParallel.__init__ is init
    assert FSDPStrategy._init_state_dict_cfg is init_state_dict_cfg
