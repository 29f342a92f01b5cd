"""Every config of the repository, built and used at a small size."""

from pathlib import Path

import cv2
import decord
import pytest
import torch
import yaml
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

ROOT = Path(__file__).parent.parent
LEAVES = sorted((ROOT / 'configs').glob('*.py'))
SPLITS = ('train', 'val', 'test')


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request) -> Path:
    return request.param


@pytest.fixture(scope='module')
def kinetics_like(motion_data, tmp_path_factory):
    """Two classes of the motion clips, as videos and as raw frames, in MMAction2's layouts."""
    out = tmp_path_factory.mktemp('layouts')
    videos = sorted((motion_data / 'videos_val').glob('*.mp4'))[:3]
    (out / 'videos.txt').write_text(''.join(f'{v.name} {i % 2}\n' for i, v in enumerate(videos)))
    lines = []
    for i, video in enumerate(videos):
        folder = out / 'rawframes' / video.stem
        folder.mkdir(parents=True)
        frames = decord.VideoReader(str(video))
        for t in range(len(frames)):
            bgr = frames[t].asnumpy()[..., ::-1]
            assert cv2.imwrite(str(folder / f'{t + 1:05}.jpg'), bgr)
        lines.append(f'{video.stem} {len(frames)} {i % 2}\n')
    (out / 'rawframes.txt').write_text(''.join(lines))
    return dict(
        VideoDataset=(out / 'videos.txt', dict(video=str(motion_data / 'videos_val'))),
        RawframeDataset=(out / 'rawframes.txt', dict(img=str(out / 'rawframes'))),
    )


def shrink(cfg: Config, data: dict) -> Config:
    """Point a config to the small data and make its network and frames small."""
    sizes = {224: 64, 256: 64}
    for split in SPLITS:
        loader = cfg[f'{split}_dataloader']
        loader.num_workers, loader.persistent_workers, loader.batch_size = 0, False, 2
        loader.dataset.ann_file, loader.dataset.data_prefix = data[loader.dataset.type]
        loader.dataset.ann_file = str(loader.dataset.ann_file)
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = tuple(sizes.get(side, side) for side in step.scale)
            if 'crop_size' in step:
                step.crop_size = sizes[step.crop_size]
            if step.get('num_clips', 1) > 2:
                step.num_clips = 2
    backbone = cfg.model.backbone
    backbone.pretrained = None
    if backbone.type == 'SIFATransformer':
        backbone.arch = dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2))
        cfg.model.cls_head.in_channels = 64
    else:
        backbone.update(stage_blocks=(1, 2, 1, 2), base_channels=8)
        cfg.model.cls_head.in_channels = 256
    cfg.test_dataloader.batch_size = 1
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    return cfg


def clip_len(leaf: Path) -> int:
    if 'swin' in leaf.stem:
        return 64
    return 32 if '32f' in leaf.stem else 16


def test_is_short(leaf):
    lines = [line for line in leaf.read_text().splitlines() if line.strip() and line[0] != '#']
    assert len(lines) <= 15


def test_clip_lengths_agree(leaf):
    cfg = Config.fromfile(leaf)
    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in SPLITS]
    pipelines += [cfg[f'{split}_pipeline'] for split in SPLITS]  # inference reads these
    lengths = {step.clip_len for pipeline in pipelines for step in pipeline if 'clip_len' in step}
    assert lengths == {clip_len(leaf)}
    for split, pipeline in zip(SPLITS, pipelines[:3], strict=True):
        assert pipeline == cfg[f'{split}_pipeline']


def test_has_what_mmaction2s_tools_need(leaf):
    cfg = Config.fromfile(leaf)
    assert cfg.custom_imports.imports == ['mmsifa']
    assert cfg.default_scope == 'mmaction'
    # --auto-scale-lr; the release trained on 4 GPUs, MMAction2's Swin on 8, the small config is
    # for one device
    devices = 1 if 'tiny' in leaf.stem else 8 if 'swin' in leaf.stem else 4
    assert cfg.auto_scale_lr.base_batch_size == devices * cfg.train_dataloader.batch_size
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    assert cfg.model.cls_head.get('loss_cls', {}).get('loss_weight', 1) in (1, accumulated)


def test_full_size_model_builds_and_takes_a_clip(leaf):
    cfg = Config.fromfile(leaf)
    frames = cfg.test_pipeline[1 if 'Decord' in cfg.test_pipeline[0].type else 0].clip_len
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        logits = model.cls_head(model.backbone(torch.empty(1, 3, frames, 224, 224)))
    datasets = {'k400': 400, 'k600': 600, 'sthv1': 174, 'sthv2': 174, 'motion': 8}
    classes = datasets[leaf.stem.rsplit('_', 1)[1]]
    paths = [logits] if 'swin' in leaf.stem else logits
    assert {tuple(path.shape) for path in paths} == {(1, classes)}


def test_pipelines_make_clips_of_the_full_size(leaf, kinetics_like):
    cfg = Config.fromfile(leaf)
    for split in SPLITS:
        dataset_cfg = cfg[f'{split}_dataloader'].dataset
        dataset_cfg.ann_file, dataset_cfg.data_prefix = kinetics_like[dataset_cfg.type]
        dataset_cfg.ann_file = str(dataset_cfg.ann_file)
        for step in dataset_cfg.pipeline:
            if step.get('num_clips', 1) > 2:
                step.num_clips = 2
        item = DATASETS.build(dataset_cfg)[1]
        small = 'tiny' in leaf.stem
        views = {'train': 1, 'val': 1, 'test': 2 if small else 6}[split]
        side = 64 if small else 256 if split == 'test' and 'swin' not in leaf.stem else 224
        assert tuple(item['inputs'].shape) == (views, 3, clip_len(leaf), side, side)
        assert item['inputs'].dtype == torch.uint8
        if split != 'train':  # a flip may change the class
            assert item['data_samples'].gt_label == 1


def test_flips_of_motion_clips_rename_the_class(motion_data):
    names = (motion_data / 'label_map.txt').read_text().splitlines()
    turn = {'clockwise': 'counterclockwise'}
    swaps = {'horizontal': {'left': 'right', **turn}, 'vertical': {'up': 'down', **turn}}
    cfg = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py')
    flips = [step for step in cfg.train_pipeline if step.type == 'Flip']
    assert [flip.direction for flip in flips] == list(swaps)
    for flip in flips:
        renamed = {names[a]: names[b] for a, b in flip.flip_label_map.items()}
        there = swaps[flip.direction]
        assert renamed == there | {b: a for a, b in there.items()}


def test_trains_validates_and_tests(leaf, kinetics_like, tmp_path):
    cfg = shrink(Config.fromfile(leaf), kinetics_like)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    weight = next(runner.model.backbone.parameters())
    before = weight.clone()
    runner.train()
    assert not torch.equal(weight, before)
    assert 0 <= runner.test()['acc/top1'] <= 1


def test_schedule_is_the_released_one(kinetics_like, tmp_path):
    """Linear warm-up from a hundredth of the rate, then a cosine to 1e-6, every iteration."""
    for name, rate, warmup in (('sifa_r50_k400', 0.04, 1), ('sifa_r50_sthv1', 0.02, 5)):
        cfg = Config.fromfile(ROOT / f'configs/{name}.py')
        cfg.work_dir = str(tmp_path)
        runner = Runner.from_cfg(shrink(cfg, kinetics_like))
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


def test_swin_parameters_are_grouped_as_the_recipe_says():
    cfg = Config.fromfile(ROOT / 'configs/sifa_swin_s_k400.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        decays = not ('norm' in name or name.endswith('.bias') or 'bias_table' in name)
        assert group['weight_decay'] == pytest.approx(0.05 if decays else 0), name
        trunk = name.startswith('backbone') and '.temporal.' not in name
        assert group['lr'] == pytest.approx(1e-4 if trunk else 1e-3), name


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
