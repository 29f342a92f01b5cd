"""SIFA inside other people's backbones: what it computes there, and what it leaves as it is."""

import copy
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmaction.models.backbones import ResNet
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.dataset import Compose, pseudo_collate
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmsifa.models import SIFA, SIFAPlugin, SIFAWithLayerNorm, TemporalConv, TemporalShift
from mmsifa.models.weights_2d import torchvision_name

CONVNEXT = dict(
    type='transformers.AutoBackbone.from_config',
    config=dict(
        type='transformers.ConvNextConfig',
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 2, 1],
        out_features=['stage3', 'stage4'],
    ),
)
SWIN = dict(  # tokens (L, C), as the first of several outputs of a block
    type='transformers.SwinBackbone',
    config=dict(
        type='transformers.SwinConfig',
        embed_dim=8,
        depths=[2, 2],
        num_heads=[1, 2],
        out_features=['stage1', 'stage2'],
    ),
)
DINO = dict(  # tokens after a class token
    type='transformers.Dinov2Backbone',
    config=dict(
        type='transformers.Dinov2Config',
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        image_size=56,
        out_features=['stage2'],
    ),
)
RESNET = dict(type='mmaction.ResNet', depth=18, norm_eval=False)


class Frames(nn.Module):
    """Two convolutions, whose features between them have the axes asked for."""

    def __init__(self, axes='NCHW', num_prefix_tokens=0):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.middle = Arrange(axes, num_prefix_tokens)
        self.last = nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x):
        x = self.embed(x)
        features = self.middle(x)
        if features.dim() == 3:
            tokens = features[:, self.middle.num_prefix_tokens :]
            maps = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        else:
            maps = features if self.middle.axes == 'NCHW' else features.permute(0, 3, 1, 2)
        return self.last(maps)


class Arrange(nn.Module):
    def __init__(self, axes, num_prefix_tokens):
        super().__init__()
        self.axes, self.num_prefix_tokens = axes, num_prefix_tokens

    def forward(self, x):
        if self.axes == 'NCHW':
            return x * 1
        if self.axes == 'NHWC':
            return x.permute(0, 2, 3, 1)
        tokens = x.flatten(2).transpose(1, 2)
        prefix = tokens.new_full((len(tokens), self.num_prefix_tokens, 6), 7)
        return torch.cat([prefix, tokens], dim=1)


def randomize(net):
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


PARTS = {
    'default': (SIFAWithLayerNorm, {}),
    'sifa': (SIFA, dict(type='SIFA', num_heads=2, softmax=True)),
    'convolution': (TemporalConv, dict(type='TemporalConv')),
    'shift': (TemporalShift, dict(type='TemporalShift', shift_div=3)),
    'nothing': (nn.Identity, dict(type='torch.nn.Identity')),
}


@pytest.mark.parametrize(('kind', 'cfg'), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(('axes', 'prefix'), [('NCHW', 0), ('NHWC', 0), ('NLC', 0), ('NLC', 2)])
@torch.no_grad()
def test_a_part_between_frames_follows_the_named_submodule(axes, prefix, kind, cfg):
    options = dict(between_frames=cfg) if cfg else {}
    net = SIFAPlugin(Frames(axes, prefix), ['middle'], num_prefix_tokens=prefix, **options)
    randomize(net)
    clips = torch.randn(2, 3, 4, 20, 28)

    features = net.backbone.embed(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 4))
    part = kind(6, **{name: value for name, value in cfg.items() if name != 'type'})
    part.load_state_dict(net.temporal['middle'].part.state_dict())
    maps = part(features).flatten(0, 1)
    expected = net.backbone.last(maps).unflatten(0, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(net(clips), expected)


def test_parts_start_in_their_own_way():
    net = SIFAPlugin(Frames(), ['middle'], between_frames=dict(type='TemporalConv'))
    randomize(net).init_weights()
    assert not net.temporal['middle'].part.conv.weight.any()
    assert net.backbone.embed.weight.all()


@pytest.mark.parametrize(
    ('cfg', 'after', 'options'),
    [
        (RESNET, ['layer2.1', 'layer3.*'], {}),
        (CONVNEXT, ['encoder.stages.2.layers.*', 'encoder.stages.3'], {}),
        (SWIN, ['swin.encoder.layers.*.blocks.*'], {}),
        (DINO, ['encoder.layer.*'], dict(num_prefix_tokens=1)),
    ],
    ids=['maps', 'maps-of-transformers', 'tokens', 'class-token'],
)
@torch.no_grad()
def test_fresh_plugin_has_the_backbones_own_features(cfg, after, options):
    net = SIFAPlugin(cfg, after, img_size=(56, 84), **options)
    net.eval()
    clips = torch.rand(2, 3, 3, 56, 84)
    expected = net.backbone(clips.transpose(1, 2).flatten(0, 1))
    expected = getattr(expected, 'feature_maps', expected)
    ours = net(clips)
    expected, ours = ([x] if torch.is_tensor(x) else x for x in (expected, ours))
    assert len(ours) == len(expected)
    for features, maps in zip(ours, expected, strict=True):
        torch.testing.assert_close(features, maps.unflatten(0, (2, 3)).transpose(1, 2))

    randomize(net.temporal)
    changed = net(clips)
    changed = [changed] if torch.is_tensor(changed) else changed
    assert not any(torch.allclose(a, b) for a, b in zip(ours, changed, strict=True))


@torch.no_grad()
def test_features_that_a_backbone_collects_by_hooks_are_those_after_the_block():
    net = SIFAPlugin(CONVNEXT, ['encoder.stages.3'], between_frames=dict(type='SIFA')).eval()
    clips = torch.rand(1, 3, 2, 64, 64)
    with_block = net(clips)[1]
    net.temporal['encoder-stages-3'].part.forward = lambda x: x
    assert not torch.allclose(with_block, net(clips)[1])


@torch.no_grad()
def test_frames_of_recognizer2d_are_clips_of_num_segments():
    net = randomize(SIFAPlugin(Frames(), ['middle'], num_segments=4))
    clips = torch.randn(2, 3, 4, 20, 28)
    frames = net(clips.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(frames, net(clips).transpose(1, 2).flatten(0, 1))


@torch.no_grad()
def test_a_clip_of_one_frame_has_no_next_frame():
    net = randomize(SIFAPlugin(Frames(), ['middle'], between_frames=dict(type='SIFA')))
    clips = torch.randn(2, 3, 1, 20, 28)
    alone = net.backbone.last(net.backbone.embed(clips[:, :, 0]))
    torch.testing.assert_close(net(clips)[:, :, 0], alone)


def test_star_is_one_part_of_a_name():
    net = SIFAPlugin(RESNET, ['layer2.*', 'layer3.0'])
    assert list(net.temporal) == ['layer2-0', 'layer2-1', 'layer3-0']


@pytest.mark.parametrize(
    ('after', 'message'),
    [
        (['layer7.*'], r"named 'layer7\.\*'\. Feature maps .* layer1\.\*, layer1, layer2\.\*"),
        (['head'], r'head returns no feature map but a tensor of shape \(2, 4\) for .* layer1'),
        (['unused'], r'unused returns no feature map but nothing, since it is not called'),
        ('layer1', r"after must be a list of names such as \['layer2\.1'\], got 'layer1'"),
        ([], r'after must be a list'),
    ],
)
def test_names_without_a_map_are_an_error_that_lists_what_there_is(after, message):
    net = ResNet(18)

    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.unused = nn.Linear(512, 4), nn.Conv2d(3, 3, 1)
            for name, module in net.named_children():
                self.add_module(name, module)

        def forward(self, x):
            x = net(x)
            self.head(x.mean(dim=(2, 3)))
            return x

    with pytest.raises(ValueError, match=message):
        SIFAPlugin(WithHead(), after)


def test_backbones_without_maps_are_an_error():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=r'the backbone returns no feature map but .*2, 4, 1, 1'):
        SIFAPlugin(pooled, ['0'])
    with pytest.raises(ValueError, match='failed in a trial run with 2 frames of 224 x 256'):
        SIFAPlugin(nn.Sequential(nn.Conv2d(5, 4, 3)), ['0'])
    with pytest.raises(ValueError, match=r'^the backbone returns .* may be \(N, C, H, W\)'):
        SIFAPlugin(nn.Sequential(nn.Conv2d(3, 16, 2, stride=2)), ['0'], img_size=32)
    with pytest.raises(ImportError, match='needs the package nosuchpackage'):
        SIFAPlugin(dict(type='nosuchpackage.Net'), ['0'])
    for kind in ('NoSuchNet', 'transformers.NoSuchNet'):
        with pytest.raises(ValueError, match=f'{kind} is neither registered nor can it'):
            SIFAPlugin(dict(type=kind), ['0'])
    with pytest.raises(ValueError, match=r"config with a 'type', got \{'depth': 50\}"):
        SIFAPlugin(dict(depth=50), ['0'])


def test_only_the_named_submodules_have_to_be_clear():
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 8, 2, stride=2))
    assert SIFAPlugin(net, ['2'], img_size=32).layouts[0].axes == 'NCHW'
    with pytest.raises(ValueError, match=r'^1 returns .* may be \(N, C, H, W\) or \(N, H, W, C\)'):
        SIFAPlugin(net, ['1'], img_size=32)


def test_a_submodule_that_is_called_twice_is_an_error():
    shared = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 8, 1), shared, nn.Conv2d(8, 8, 1), shared)
    with pytest.raises(ValueError, match='1 is called 2 times for a frame, expected once'):
        SIFAPlugin(net, ['1'])


def test_maps_may_lack_the_positions_that_padding_would_keep():
    """As AlexNet's stem does: 27 x 31 positions of 224 x 256 pixels."""
    net = nn.Sequential(nn.Conv2d(3, 8, 11, stride=4, padding=2), nn.MaxPool2d(3, stride=2))
    plugin = SIFAPlugin(net, ['0', '1'])
    assert plugin(torch.rand(1, 3, 2, 224, 256)).shape == (1, 8, 2, 27, 31)


def test_named_tuples_and_lists_keep_their_kind():
    Output = namedtuple('Output', ['maps', 'other'])

    class Several(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind, self.conv = kind, nn.Conv2d(3, 8, 2, stride=2)

        def forward(self, x):
            outputs = (self.conv(x), 'other')
            return Output(*outputs) if self.kind is Output else self.kind(outputs)

    class Net(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.inner = Several(kind)

        def forward(self, x):
            output = self.inner(x)
            assert type(output) is self.inner.kind
            assert output[1] == 'other'
            return output[0]

    for kind in (Output, list, tuple):
        net = SIFAPlugin(Net(kind), ['inner'])
        assert net(torch.rand(1, 3, 2, 8, 8)).shape == (1, 8, 2, 4, 4)


def test_backbones_with_frames_of_their_own_count_get_as_many():
    """MMAction2's TSM cuts its input into clips, too."""
    tsm = dict(type='mmaction.ResNetTSM', depth=18, num_segments=4)
    net = SIFAPlugin(tsm, ['layer3.1'], num_segments=4)
    assert net(torch.rand(8, 3, 32, 32)).shape == (8, 512, 1, 1)


def test_only_what_can_be_imported_is_built_before_its_backbone():
    norm = dict(type='BN', requires_grad=True)
    net = SIFAPlugin(dict(type='mmaction.models.ResNet', depth=18, norm_cfg=norm), ['layer3.1'])
    assert isinstance(net.backbone, ResNet)


@pytest.mark.parametrize(
    'shape', [(2, 4, 4, 20, 28), (5, 3, 20, 28), (3, 20, 28)], ids=['channels', 'frames', 'dims']
)
def test_wrong_clips_are_named(shape):
    net = SIFAPlugin(Frames(), ['middle'], num_segments=4)
    with pytest.raises(ValueError, match=r'expects clips \(N, 3, T, H, W\).*got .*num_segments=4'):
        net(torch.zeros(shape))
    net.num_segments = None
    with pytest.raises(ValueError, match='num_segments=None'):
        net(torch.zeros(4, 3, 20, 28))


def test_trial_run_leaves_no_trace():
    backbone = ResNet(18)
    before, state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    backbone.layer1.eval()
    SIFAPlugin(backbone, ['layer2.1'], between_frames=dict(type='torch.nn.Identity'))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(backbone.state_dict(), before)
    assert backbone.training
    assert not backbone.layer1.training
    assert sum(len(module._forward_hooks) for module in backbone.modules()) == 1


def torchvision_weights(net):
    return {torchvision_name(name): value for name, value in net.state_dict().items()}


def test_pretrained_and_frozen_stages_are_the_backbones_own(tmp_path):
    source = randomize(ResNet(18))
    weights = torchvision_weights(source)
    torch.save(weights, tmp_path / 'resnet.pth')
    cfg = RESNET | dict(pretrained=str(tmp_path / 'resnet.pth'), frozen_stages=1)
    net = MODELS.build(dict(type='SIFAPlugin', backbone=cfg, after=['layer1.1', 'layer3.*']))
    net.init_weights()
    net.train()
    torch.testing.assert_close(net.backbone.state_dict(), source.state_dict())
    assert not any(p.requires_grad for p in net.backbone.layer1.parameters())
    assert not net.backbone.layer1[0].conv1.bn.training
    assert net.backbone.layer2[0].conv1.bn.training
    assert all(p.requires_grad for p in net.temporal.parameters())


@pytest.mark.parametrize(
    ('source', 'cfg', 'message'),
    [
        (34, dict(depth=18), '96 of its weights have no place there'),
        (18, dict(depth=34), r'layer1\.2\.conv1\.weight is missing'),
        (34, dict(type='mmaction.ResNetTSM', depth=18, num_segments=2), '96 of its weights'),
        (18, dict(type='mmaction.ResNetTSM', depth=34, num_segments=2), 'is missing'),
        (18, dict(type='mmaction.ResNetTSM', depth=18, num_segments=2), None),
        (18, dict(depth=18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
                  out_indices=(2,)), None),
    ],
    ids=['deeper', 'shallower', 'deeper-tsm', 'shallower-tsm', 'tsm', 'fewer-stages'],
)  # fmt: skip
def test_2d_weights_of_another_depth_are_named(source, cfg, message, tmp_path):
    weights = torchvision_weights(randomize(ResNet(source)))
    torch.save(weights | {'fc.weight': torch.zeros(1)}, tmp_path / '2d.pth')
    cfg = RESNET | cfg | dict(pretrained=str(tmp_path / '2d.pth'))
    net = SIFAPlugin(cfg, ['layer2.1'])
    if message:
        with pytest.raises(ValueError, match=message):
            net.init_weights()
    else:
        net.init_weights()
        assert torch.equal(net.backbone.conv1.conv.weight, weights['conv1.weight'])


def test_init_cfg_of_the_backbone_is_checked(tmp_path):
    torch.save({'state_dict': ResNet(34).state_dict()}, tmp_path / 'r34.pth')
    cfg = RESNET | dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r34.pth')))
    with pytest.raises(ValueError, match=r'weights of this ResNet: 96 without a place \(layer1\.2'):
        SIFAPlugin(cfg, ['layer2.1']).init_weights()


def test_imported_backbones_keep_their_pretrained_weights(tmp_path):
    from transformers import ConvNextBackbone, ConvNextConfig

    arguments = {key: value for key, value in CONVNEXT['config'].items() if key != 'type'}
    source = randomize(ConvNextBackbone(ConvNextConfig(**arguments)))
    source.save_pretrained(tmp_path)
    cfg = dict(
        type='transformers.ConvNextBackbone.from_pretrained',
        pretrained_model_name_or_path=str(tmp_path),
    )
    net = MODELS.build(dict(type='SIFAPlugin', backbone=cfg, after=['encoder.stages.2.layers.1']))
    recognizer = MODELS.build(dict(type='Recognizer3D', backbone=dict(type='C3D', dropout_ratio=0)))
    recognizer.backbone = net
    recognizer.init_weights()
    torch.testing.assert_close(net.backbone.state_dict(), source.state_dict())


def test_own_weights_load_by_init_cfg(tmp_path):
    source = randomize(SIFAPlugin(RESNET, ['layer3.*']))
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'own.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth'))
    net = SIFAPlugin(RESNET, ['layer3.*'], init_cfg=init_cfg)
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), source.state_dict())
    torch.save({'model.' + name: weight for name, weight in source.state_dict().items()},
               tmp_path / 'own.pth')  # fmt: skip
    net = SIFAPlugin(RESNET, ['layer3.*'], init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r"like 'backbone\.conv1\..*got \['model\.backbone\."):
        net.init_weights()


def test_a_copy_is_independent():
    """As an average of weights needs."""
    net = randomize(SIFAPlugin(Frames(), ['middle']))
    clips = torch.randn(1, 3, 3, 20, 28)
    other = copy.deepcopy(net)
    expected = net(clips)
    torch.testing.assert_close(other(clips), expected)
    randomize(net)
    net(clips[:, :, :2])
    torch.testing.assert_close(other(clips), expected)


def test_with_cp_has_the_same_gradients():
    clips, gradients = torch.rand(1, 3, 2, 32, 32), []
    stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    cfg = RESNET | stages | dict(depth=50, norm_eval=True)
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = SIFAPlugin(cfg | dict(with_cp=with_cp), ['layer2.0.conv1'])
        randomize(net).train()
        net(clips).sum().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
        assert all(g is not None for g in gradients[-1].values())
    torch.testing.assert_close(*gradients)


class Recomputed(nn.Module):
    """Two convolutions, computed again in the backward pass if asked for."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.with_cp, self.use_reentrant = False, use_reentrant
        self.first, self.second = (nn.Conv2d(c, 6, 3, padding=1) for c in (6, 6))

    def compute(self, x):
        return self.second(self.first(x).relu())

    def forward(self, x):
        if not (self.with_cp and torch.is_grad_enabled()):
            return self.compute(x)
        return checkpoint(self.compute, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize('together', [True, False], ids=['one-backward', 'two-backwards'])
@pytest.mark.parametrize('use_reentrant', [True, False], ids=['reentrant', 'not-reentrant'])
def test_clips_of_two_lengths_may_wait_for_their_backward_pass(use_reentrant, together):
    trunk = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), Recomputed(use_reentrant))
    net = randomize(SIFAPlugin(trunk, ['1.first']))
    clips, gradients = [torch.rand(2, 3, t, 20, 28) for t in (4, 2)], []
    for with_cp in (False, True):
        trunk[1].with_cp = with_cp
        net.zero_grad()
        losses = [net(x).square().sum() for x in clips]
        for loss in [sum(losses)] if together else losses:
            loss.backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    assert gradients[0]['temporal.1-first.part.sifa.conv_offset.weight'].any()
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_threads_with_clips_of_different_lengths_share_a_network():
    net = randomize(SIFAPlugin(Frames('NLC'), ['middle']))
    started = threading.Barrier(2)
    clips = [torch.rand(2, 3, 4, 20, 28), torch.rand(4, 3, 2, 28, 20)]
    expected = [net(x) for x in clips]

    def wait_for_the_other(*args):
        started.wait(20)

    net.backbone.embed.register_forward_hook(wait_for_the_other)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(net, clips))
    torch.testing.assert_close(together, expected)


@torch.no_grad()
def test_the_backbone_called_directly_has_its_own_features_before_and_after():
    backbone = Frames('NLC')
    frames = torch.rand(4, 3, 20, 28)
    alone = backbone(frames)
    net = randomize_parts(SIFAPlugin(backbone, ['middle']))
    for call in (lambda: None, lambda: net(torch.rand(1, 3, 4, 20, 28)), lambda: fails(net)):
        call()
        torch.testing.assert_close(net.backbone(frames), alone)


def randomize_parts(net):
    randomize(net.temporal)
    return net


def fails(net):
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 3, 4, 20, 28, dtype=torch.double))


def recognizer2d(num_segments=4):
    plugin = dict(type='SIFAPlugin', backbone=RESNET, after=['layer3.*'], num_segments=num_segments)
    head = dict(type='TSNHead', num_classes=3, in_channels=512, average_clips='prob')
    return MODELS.build(dict(type='Recognizer2D', backbone=plugin, cls_head=head)).eval()


def sampled(num_frames=32, crops=(), **sampling):
    """What a pipeline makes of a video."""
    steps = [
        dict(type='SampleFrames', test_mode=True, **sampling),
        dict(type='ArrayDecode'),
        *crops,
        dict(type='FormatShape', input_format='NCHW'),
        dict(type='PackActionInputs'),
    ]
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    return Compose([TRANSFORMS.build(step) for step in steps])(
        dict(array=frames, total_frames=num_frames, start_index=0, label=0, modality='RGB')
    )


CROPS = [dict(type='ThreeCrop', crop_size=32)]


@pytest.mark.parametrize(
    ('options', 'num_segments', 'clip'),
    [
        (dict(clip_len=1, num_clips=8), 4, 8),
        (dict(clip_len=1, num_clips=2), 4, 2),
        (dict(clip_len=1, num_clips=4, crops=CROPS), 6, 4),
        (dict(clip_len=8, num_clips=1), 4, 8),
    ],
    ids=['more', 'fewer', 'crops', 'long-clips'],
)
@pytest.mark.parametrize('mode', ['predict', 'loss'])
def test_clips_of_another_length_are_refused(options, num_segments, clip, mode):
    data = pseudo_collate([sampled(**options)] * 2)
    net = recognizer2d(num_segments)
    with pytest.raises(ValueError, match=f'num_segments={num_segments} frames, .* of {clip}: have'):
        net(**net.data_preprocessor(data), mode=mode)


def test_frames_of_unknown_origin_that_are_no_clips_are_refused():
    net = recognizer2d()
    with pytest.raises(ValueError, match='got samples of 6 frames, in clips of unknown length'):
        net(torch.rand(2, 6, 3, 32, 32))


@pytest.mark.parametrize(
    'options',
    [
        dict(clip_len=1, num_clips=4),
        dict(clip_len=1, num_clips=4, twice_sample=True),
        dict(clip_len=1, num_clips=4, crops=CROPS),
        dict(clip_len=4, num_clips=2),
    ],
    ids=['plain', 'twice', 'crops', 'two-clips'],
)
@torch.no_grad()
def test_views_of_the_right_length_are_taken(options):
    net = recognizer2d()
    data = net.data_preprocessor(pseudo_collate([sampled(**options)] * 2))
    assert net(**data, mode='predict')[0].pred_score.shape == (3,)


def test_compiles_into_one_graph():
    net = randomize(SIFAPlugin(Frames('NHWC'), ['middle'])).eval()
    clips = torch.rand(1, 3, 3, 20, 28)
    with torch.no_grad():
        compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(clips), net(clips))


@pytest.mark.parametrize(
    ('package', 'cfg', 'after', 'options'),
    [
        ('timm', dict(model_name='convnext_atto'), 'stages.2.blocks.*', {}),
        ('timm', dict(model_name='swin_tiny_patch4_window7_224'), 'layers.2.blocks.*', {}),
        ('timm', dict(model_name='vit_tiny_patch16_224'), 'blocks.3', dict(num_prefix_tokens=1)),
        ('mmpretrain', dict(arch='atto', gap_before_final_norm=False), 'stages.2.*', {}),
    ],
    ids=['timm-maps', 'timm-channels-last', 'timm-tokens', 'mmpretrain'],
)
@torch.no_grad()
def test_backbones_of_timm_and_mmpretrain(import_or_skip, package, cfg, after, options):
    import_or_skip(package)
    kinds = {
        'timm': dict(type='timm.create_model', num_classes=0, global_pool=''),
        'mmpretrain': dict(type='mmpretrain.ConvNeXt'),
    }
    net = SIFAPlugin(kinds[package] | cfg, [after], img_size=224, **options).eval()
    clips = torch.rand(1, 3, 2, 224, 224)
    fresh = net(clips)
    assert fresh.dim() == 5
    one_by_one = [net(clips[:, :, t : t + 1]) for t in (0, 1)]
    torch.testing.assert_close(fresh, torch.cat(one_by_one, dim=2))
    randomize(net.temporal)
    assert not torch.allclose(net(clips), fresh)
