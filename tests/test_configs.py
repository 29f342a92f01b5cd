"""Every config of the repository, built and used at a small size."""

import ast
import functools
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from mmaction.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

ROOT = Path(__file__).parent.parent
LEAVES = sorted((ROOT / 'configs').glob('*.py'))
SPLITS = ('train', 'val', 'test')


_read = functools.cache(Config.fromfile)


def read(path: Path) -> Config:
    """A copy of a config, quicker than to read it again."""
    return deepcopy(_read(path))


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request) -> Path:
    return request.param


def clip_len(leaf: Path) -> int:
    if 'swin' in leaf.stem:
        return 64
    return 32 if '32f' in leaf.stem else 16


def clips_of_a_test(leaf: Path) -> int:
    """Clips of a video in a test."""
    if 'swin' in leaf.stem:
        return 1 if 'sth' in leaf.stem else 4
    return 2 if 'tiny' in leaf.stem else 20


def test_every_network_has_a_config_for_every_data_set():
    networks = ('r50', 'r101', 'swin_s', 'swin_b', 'swin_l')
    names = {f'{n}_{data}' for n in networks for data in ('k400', 'k600', 'sthv1', 'sthv2')}
    names |= {f'{n}_32f_{data}' for n in ('r50', 'r101') for data in ('k400', 'k600')}
    assert {leaf.stem for leaf in LEAVES} == {f'sifa_{name}' for name in (*names, 'tiny_motion')}


@pytest.mark.parametrize(
    'path',
    [*LEAVES, *(ROOT / 'configs/plugin').glob('*.py')],
    ids=lambda path: path.stem,
)
def test_is_short(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and line[0] != '#']
    assert len(lines) <= 15


def test_clip_lengths_agree(leaf):
    cfg = read(leaf)
    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in SPLITS]
    pipelines += [cfg[f'{split}_pipeline'] for split in SPLITS]  # inference reads these
    lengths = {step.clip_len for pipeline in pipelines for step in pipeline if 'clip_len' in step}
    assert lengths == {clip_len(leaf)}
    for split, pipeline in zip(SPLITS, pipelines[:3], strict=True):
        assert pipeline == cfg[f'{split}_pipeline']


@pytest.mark.parametrize('path', [*LEAVES, *(ROOT / 'configs/plugin').glob('*.py')], ids=str)
def test_errors_name_the_videos_that_are_scored(path):
    cfg = read(path)
    for split in ('val', 'test'):
        pack = cfg[f'{split}_dataloader'].dataset.pipeline[-1]
        assert pack.type == 'PackActionInputs'
        assert 'filename' in pack.meta_keys


def test_has_what_mmaction2s_tools_need(leaf):
    cfg = read(leaf)
    assert cfg.custom_imports.imports == ['mmsifa']
    assert cfg.default_scope == 'mmaction'
    # --auto-scale-lr; the release trained on 4 GPUs, MMAction2's Swin on 8, the small config is
    # for one device
    devices = 1 if 'tiny' in leaf.stem else 8 if 'swin' in leaf.stem else 4
    assert cfg.auto_scale_lr.base_batch_size == devices * cfg.train_dataloader.batch_size


def test_accumulated_batches_have_the_released_weight(leaf):
    cfg = read(leaf)
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    weight = cfg.model.cls_head.get('loss_cls', {}).get('loss_weight', 1)
    if 'swin' in leaf.stem or 'tiny' in leaf.stem:
        assert (accumulated, weight) == (1, 1)
    else:  # the gradient of an update is this weight times that of the mean of a GPU's 96 clips
        assert accumulated * cfg.train_dataloader.batch_size == 96
        assert weight == (1 if 'sth' in leaf.stem else 4)


@functools.cache
def features(backbone, frames):
    """What a backbone, its config as Python code, makes of a clip; many configs share one."""
    with torch.device('meta'):
        backbone = MODELS.build(ast.literal_eval(backbone)).eval()
        return backbone(torch.empty(1, 3, frames, 224, 224))


def test_full_size_model_builds_and_takes_a_clip(leaf):
    cfg = read(leaf)
    frames = cfg.test_pipeline[1 if 'Decord' in cfg.test_pipeline[0].type else 0].clip_len
    with torch.device('meta'):
        head = MODELS.build(cfg.model.cls_head).eval()
        logits = head(features(repr(cfg.model.backbone.to_dict()), frames))
    datasets = {'k400': 400, 'k600': 600, 'sthv1': 174, 'sthv2': 174, 'motion': 8}
    classes = datasets[leaf.stem.rsplit('_', 1)[1]]
    paths = [logits] if 'swin' in leaf.stem else logits
    assert {tuple(path.shape) for path in paths} == {(1, classes)}


def test_pipelines_make_clips_of_the_full_size(leaf, kinetics_like):
    cfg = read(leaf)
    for split in SPLITS:
        dataset_cfg = cfg[f'{split}_dataloader'].dataset
        kind = dataset_cfg.type.removeprefix('Checked')
        dataset_cfg.ann_file, dataset_cfg.data_prefix = kinetics_like[kind]
        dataset_cfg.ann_file = str(dataset_cfg.ann_file)
        clips = clips_of_a_test(leaf) if split == 'test' else 1
        for step in dataset_cfg.pipeline:
            if 'clip_len' in step:
                assert step.get('num_clips', 1) == clips
                if clips > 2:
                    clips = step.num_clips = 2
        item = DATASETS.build(dataset_cfg)[1]
        small = 'tiny' in leaf.stem
        views = clips if small or split != 'test' else 3 * clips
        side = 64 if small else 256 if split == 'test' and 'swin' not in leaf.stem else 224
        assert tuple(item['inputs'].shape) == (views, 3, clip_len(leaf), side, side)
        assert item['inputs'].dtype == torch.uint8
        if split != 'train':  # a flip may change the class
            assert item['data_samples'].gt_label == 1


def test_something_something_is_never_flipped(leaf):
    flips = 'Flip' in [step.type for step in read(leaf).train_pipeline]
    assert flips == ('sth' not in leaf.stem)


@pytest.mark.parametrize('frames', [18, 200])  # fewer and more than a clip has
@pytest.mark.parametrize('data', ['sthv1', 'sthv2'])
def test_swin_sees_the_whole_something_something_video_once(data, frames):
    cfg = read(ROOT / f'configs/sifa_swin_b_{data}.py')
    for split in SPLITS:
        (sample,) = (step for step in cfg[f'{split}_pipeline'] if 'clip_len' in step)
        video = dict(total_frames=frames, start_index=1)
        inds = TRANSFORMS.build(sample)(video)['frame_inds']
        assert len(inds) == 64
        assert (inds[1:] >= inds[:-1]).all()  # SampleFrames starts short videos again
        assert 1 <= inds[0] <= 1 + frames / 64
        assert frames - frames / 64 - 1 <= inds[-1] <= frames


def test_flips_of_motion_clips_rename_the_class(motion_data):
    names = (motion_data / 'label_map.txt').read_text().splitlines()
    turn = {'clockwise': 'counterclockwise'}
    swaps = {'horizontal': {'left': 'right', **turn}, 'vertical': {'up': 'down', **turn}}
    cfg = read(ROOT / 'configs/sifa_tiny_motion.py')
    flips = [step for step in cfg.train_pipeline if step.type == 'Flip']
    assert [flip.direction for flip in flips] == list(swaps)
    for flip in flips:
        renamed = {names[a]: names[b] for a, b in flip.flip_label_map.items()}
        there = swaps[flip.direction]
        assert renamed == there | {b: a for a, b in there.items()}


def test_trains_validates_and_tests(leaf, shrink, tmp_path):
    cfg = shrink(read(leaf))
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    weight = next(runner.model.backbone.parameters())
    before = weight.clone()
    runner.train()
    assert not torch.equal(weight, before)
    assert runner.message_hub.get_scalar('train/grad_norm').current() > 0
    assert 0 <= runner.test()['acc/top1'] <= 1


def test_runs_survive_faults(leaf):
    cfg = read(leaf)
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert {hook.type for hook in cfg.default_hooks.values()} >= {
        'AtomicCheckpointHook', 'InvalidLossHook', 'PreemptionHook'
    }  # fmt: skip


def test_schedule_is_the_released_one(shrink, tmp_path):
    """Linear warm-up from a hundredth of the rate, then a cosine to 1e-6, every iteration."""
    for name, rate, warmup in (('sifa_r50_k400', 0.04, 1), ('sifa_r50_sthv1', 0.02, 5)):
        cfg = read(ROOT / f'configs/{name}.py')
        cfg.work_dir = str(tmp_path)
        runner = Runner.from_cfg(shrink(cfg))
        runner.train_loop._max_epochs = 64
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        schedulers = runner.build_param_scheduler(runner.param_schedulers)
        epoch, rates = len(runner.train_loop.dataloader), []
        for _ in range(64 * epoch):
            rates += runner.optim_wrapper.get_lr()['lr']
            for scheduler in schedulers:
                scheduler.step()
        assert rates[0] == pytest.approx(rate / 100)
        assert max(rates) == pytest.approx(rate, rel=0.01)
        assert rates.index(max(rates)) in (warmup * epoch - 1, warmup * epoch)
        assert rates == sorted(rates[: warmup * epoch]) + sorted(rates[warmup * epoch :])[::-1]
        assert len(set(rates)) > 60 * epoch
        assert rates[-1] < rate / 100
        assert schedulers[1].eta_min == 1e-6


@pytest.mark.parametrize('size', ['s', 'b', 'l'])
def test_swin_parameters_are_grouped_as_the_recipe_says(size):
    cfg = read(ROOT / f'configs/sifa_swin_{size}_k400.py')
    for data in ('k600', 'sthv1', 'sthv2'):
        other = read(ROOT / f'configs/sifa_swin_{size}_{data}.py')
        assert other.optim_wrapper == cfg.optim_wrapper
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = [(id(p), group) for group in optimizer.param_groups for p in group['params']]
    parameters = dict(model.named_parameters())
    assert len(groups) == len(dict(groups)) == len(parameters)  # each in one group
    for name, parameter in parameters.items():
        group = dict(groups)[id(parameter)]
        module = model.get_submodule(name.rpartition('.')[0])
        table = 'relative_position_bias_table' in name
        decays = not (table or isinstance(module, nn.LayerNorm) or name.endswith('.bias'))
        assert decays == (parameter.dim() > 1 and not table), name  # matrices and kernels, all
        assert group['weight_decay'] == pytest.approx(0.05 if decays else 0), name
        pretrained = name.startswith('backbone.') and '.temporal.' not in name
        slow = pretrained or '.conv_offset.' in name
        assert group['lr'] == pytest.approx(1e-4 if slow else 1e-3), name


def test_every_config_is_in_the_model_index():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    metafiles = [yaml.safe_load((ROOT / path).read_text()) for path in index['Import']]
    models = [model for metafile in metafiles for model in metafile['Models']]
    assert sorted(model['Config'] for model in models) == [f'configs/{p.name}' for p in LEAVES]
    assert all(model['Name'] == Path(model['Config']).stem for model in models)


def test_the_readmes_config_fits_mmaction2s_own_head(tmp_path):
    blocks = (ROOT / 'README.md').read_text().split('```python\n')[1:]
    (text,) = [block.split('```')[0] for block in blocks if block.startswith('_base_')]
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.cls_head.type == 'I3DHead'
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        clip = torch.empty(2, 1, 3, cfg.test_pipeline[1].clip_len, 64, 64)
    assert model.eval()(clip, mode='tensor', stage='head').shape == (2, 400)


def test_the_config_of_the_page_on_data_moves_steps_to_the_device(tmp_path):
    text = (ROOT / 'docs/data.md').read_text()
    (tmp_path / 'config.py').write_text(text.partition('```python\n')[2].partition('```')[0])
    (tmp_path / 'base.py').write_text("_base_ = 'mmsifa::sifa_r50_k400.py'")
    moved, steps = read(tmp_path / 'config.py'), read(tmp_path / 'base.py').train_pipeline
    rest = moved.train_dataloader.dataset.pipeline
    on_device = moved.model.data_preprocessor.pop('transforms')
    assert len(on_device) == 3
    assert rest[:5] + on_device + rest[5:] == steps
    augmentation = MODELS.build(dict(moved.model.data_preprocessor, transforms=on_device))
    assert augmentation.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
