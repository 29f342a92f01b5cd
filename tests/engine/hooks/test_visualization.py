"""Pictures and statistics of inter-frame attention out of a real training run."""

import json
from itertools import count
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
import torch
from mmaction.registry import HOOKS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmsifa.apis.inspection.figure import summary_figure
from mmsifa.engine.hooks import SIFAVisualizationHook
from mmsifa.models import SIFA
from mmsifa.ops import inter_frame_attention_weights

names = (f'visualization_{i}' for i in count())
LAYERS = ('backbone.layer2.1.sifa', 'backbone.layer3.1.sifa')


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


@HOOKS.register_module()
class HooksOfLayersHook(Hook):
    """Count the forward passes of the model and the hooks of its SIFA layers in each of them."""

    priority = 'VERY_LOW'

    def before_run(self, runner):
        self.passes = []
        runner.model.backbone.register_forward_pre_hook(
            lambda module, args: self.passes.append((module.training, len(hooks_of(module)), args))
        )


@pytest.fixture(scope='module')
def build(root, motion_data, tmp_path_factory):
    """Build the runner of a small SIFA-Net.

    Its 9 validation videos come in batches of 4, two clips of each.
    """
    folder = tmp_path_factory.mktemp('runs')

    def build(hook, **options):
        config = Config.fromfile(root / 'configs/sifa_tiny_motion.py')
        config.experiment_name = next(names)
        config.work_dir = str(folder / config.experiment_name)
        config.model.backbone.update(base_channels=8, stage_blocks=(1, 2, 2, 1))
        config.model.cls_head.update(in_channels=256)
        for split, part in (('train', 'train'), ('val', 'val')):
            loader = config[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False, batch_size=4)
            loader.dataset.ann_file = str(motion_data / f'{part}_list_videos.txt')
            loader.dataset.data_prefix = dict(video=str(motion_data / f'videos_{part}'))
        config.val_dataloader.dataset.pipeline[1]['num_clips'] = 2
        config.val_dataloader.dataset.pipeline[-1]['meta_keys'] = ('filename',)
        config.test_dataloader = config.test_evaluator = config.test_cfg = None
        config.train_cfg.update(max_epochs=2, val_interval=1)
        config.custom_hooks = [*hook, dict(type='HooksOfLayersHook')]
        config.visualizer = dict(
            type='ActionVisualizer',
            vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
        )
        config.randomness = dict(seed=1)
        config.merge_from_dict(options)
        return Runner.from_cfg(config)

    return build


def passes_of(runner):
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, HooksOfLayersHook))
    return hook.passes


@pytest.fixture(scope='module')
def trained(build):
    """A runner after its training, with what it drew as ``drawn``."""
    runner = build([dict(type='SIFAVisualizationHook', interval=5, num_samples=2)])
    runner.drawn = []

    def draw(inspection, layer):
        runner.drawn.append(inspection)
        return summary_figure(inspection, layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmsifa.apis.inspection.figure.summary_figure', draw)
        runner.train()
    return runner


@pytest.fixture(scope='module')
def vis_data(trained):
    return Path(trained.log_dir) / 'vis_data'


@pytest.mark.slow
def test_pictures_of_every_fifth_sample_up_to_two_in_every_validation(vis_data):
    stems = ('sifa_0_00000_left', 'sifa_1_00005_away')
    wanted = {f'{stem}_{epoch}.png' for stem in stems for epoch in (1, 2)}
    assert {path.name for path in (vis_data / 'vis_image').iterdir()} == wanted
    for name in wanted:
        picture = cv2.imread(str(vis_data / 'vis_image' / name))
        assert picture.shape[1] == 7.2 * 150
        assert picture.std() > 20


@pytest.mark.slow
def test_pictures_show_the_frames_of_their_video(trained, motion_data):
    assert [inspection.video for inspection in trained.drawn[2:]] == [
        '00000_left.mp4',
        '00005_away.mp4',
    ]
    for inspection in trained.drawn[2:]:
        video = decord.VideoReader(str(motion_data / 'videos_val' / inspection.video))
        frames = video.get_batch(range(len(video))).asnumpy()
        assert any(np.array_equal(frames[i : i + 16], inspection.frames) for i in range(3))


@pytest.mark.slow
def test_both_backends_get_the_same(vis_data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(vis_data), size_guidance=dict(images=0, scalars=0))
    events.Reload()
    lines = [json.loads(line) for line in (vis_data / 'scalars.json').read_text().splitlines()]
    lines = [line for line in lines if any(key.startswith('sifa/') for key in line)]
    assert [line.pop('step') for line in lines] == [1, 2]
    tags = {f'sifa/{layer}/{name}' for layer in LAYERS for name in ('length', 'outside', 'entropy')}
    for line in lines:
        assert line.keys() == tags
    for tag in tags:
        values = [(event.step, event.value) for event in events.Scalars(tag)]
        assert values == [(i + 1, pytest.approx(line[tag])) for i, line in enumerate(lines)]
    images = events.Images('sifa_1_00005_away')
    assert [image.step for image in images] == [1, 2]
    shown = cv2.imdecode(np.frombuffer(images[1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    written = cv2.imread(str(vis_data / 'vis_image/sifa_1_00005_away_2.png'))
    assert np.array_equal(shown, written)


def test_one_forward_pass_and_hooks_only_where_a_sample_is_shown(trained):
    seen = [(training, hooks) for training, hooks, _ in passes_of(trained)]
    # 16 training clips and 9 validation clips in batches of 4; samples 0 and 5 are in two of them
    hooks = 2 * len(LAYERS)  # a layer and its offset predictor
    epoch = [(True, 0)] * 4 + [(False, hooks), (False, hooks), (False, 0)]
    assert seen == epoch * 2
    assert not hooks_of(trained.model)


@torch.no_grad()
def test_statistics_are_the_means_over_the_samples(trained, vis_data):
    """Recomputed from the last epoch's weights and the clips that the network saw."""
    backbone = trained.model.backbone.eval()
    first, second = [args[0] for training, _, args in passes_of(trained) if not training][3:5]
    clips = torch.stack([first[0], second[2]])  # the first clips of samples 0 and 5
    inputs, wanted = {}, {}
    for name, layer in trained.model.named_modules():
        if isinstance(layer, SIFA):
            layer.register_forward_pre_hook(
                lambda _, args, name=name: inputs.update({name: args[0]})
            )
    backbone(clips)
    for name, x in inputs.items():
        if x.shape[1] < 2:
            continue
        layer = trained.model.get_submodule(name)
        offset = layer.predict_offset(x[:, :-1], x[:, 1:])
        sizes = inter_frame_attention_weights(x[:, :-1], x[:, 1:], offset)[:, :, 0].abs()
        share = sizes / sizes.sum(dim=2, keepdim=True)
        entropy = -(share * share.clamp(min=1e-30).log()).sum(dim=2) / np.log(9)
        wanted[f'sifa/{name}/entropy'] = entropy.mean().item()
        offset = offset.unflatten(2, (9, 2))
        wanted[f'sifa/{name}/length'] = offset.norm(dim=3).mean().item()
        h, w = x.shape[-2:]
        taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))[:, :, None, None]
        y, x = (
            offset
            + taps
            + torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij'))
        ).unbind(3)
        outside = (y <= -1) | (y >= h) | (x <= -1) | (x >= w)
        wanted[f'sifa/{name}/outside'] = outside.float().mean().item()
    line = json.loads((vis_data / 'scalars.json').read_text().splitlines()[-1])
    if 'acc/top1' in line:
        line = json.loads((vis_data / 'scalars.json').read_text().splitlines()[-2])
    assert wanted == pytest.approx({key: line[key] for key in wanted}, rel=1e-4)
    assert wanted[f'sifa/{LAYERS[0]}/length'] > 0


@pytest.mark.slow
def test_a_network_without_sifa_or_layer_of_that_name_is_refused_at_the_start(build):
    hook = dict(type='SIFAVisualizationHook')
    runner = build([dict(hook, layer='backbone.layer9')])
    with pytest.raises(ValueError, match=r'to show backbone.layer9, but the SIFA layers are back'):
        runner.call_hook('before_run')
    runner = build([hook])
    runner.model.backbone = nn.Identity()
    with pytest.raises(ValueError, match='Identity has no SIFA layer'):
        runner.call_hook('before_run')
    for wrong in (dict(interval=0), dict(num_samples=0)):
        with pytest.raises(ValueError, match=r'must be 1 or more, got 0'):
            SIFAVisualizationHook(**wrong)


@pytest.mark.slow
def test_validation_alone_is_step_0_and_without_attention_it_warns(build):
    training = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
    only_val = dict.fromkeys(training)
    one_frame = {'val_dataloader.dataset.pipeline.1.clip_len': 4}
    runner = build([dict(type='SIFAVisualizationHook')], **only_val, **one_frame)
    runner.val()
    log = Path(runner.log_dir)
    assert 'saw no attention' in (log / f'{runner.timestamp}.log').read_text()
    assert not (log / 'vis_data/vis_image').exists()

    # Samples 0 and 8, of which the latter is in the last batch.
    hook = dict(type='SIFAVisualizationHook', interval=8, layer=LAYERS[1])
    runner = build([hook], **only_val)
    runner.val()
    pictures = (Path(runner.log_dir) / 'vis_data/vis_image').iterdir()
    stems = ('sifa_0_00000_left', 'sifa_1_00008_left')
    assert sorted(path.name for path in pictures) == [f'{stem}_0.png' for stem in stems]
    assert not hooks_of(runner.model)


def test_other_ranks_do_nothing(trained, monkeypatch):
    monkeypatch.setattr('mmsifa.engine.hooks.visualization.is_main_process', lambda: False)
    hook = SIFAVisualizationHook()
    hook.before_val_epoch(trained)
    hook.before_val_iter(trained, 0, dict(inputs=[torch.zeros(1, 3, 16, 64, 64)]))
    assert not hooks_of(trained.model)
    hook.after_val_iter(trained, 0)
    hook.after_val_epoch(trained)
