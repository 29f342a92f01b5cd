"""Weights of the released code: converted ones give the numbers that the release's would.

The forward passes here are written from the description of the method, one position or window at
a time, on the release's names.
"""

import copy
import functools
import itertools
import math
import re
import resource
import string
from ast import literal_eval

import pytest
import torch
import torch.nn.functional as F
from mmaction.apis import inference_recognizer, init_recognizer
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DefaultScope

from mmsifa.__main__ import main
from mmsifa.apis.conversion import convert_release, convert_released_state_dict
from mmsifa.commands.convert import fitting_configs

BLOCKS, WIDTH = (1, 2, 3, 2), 8
DEPTHS, DIM, HEADS = (2, 2, 3, 2), 8, (1, 2, 2, 4)
STAGES = ('layer1', 'layer2', 'layer3', 'layer4', 'layer4_dual')


class Weights(dict):
    """Random weights that keep the features' scale, or zeros that take no memory."""

    def __init__(self, empty=False):
        super().__init__()
        self.empty = empty

    def add(self, name, *shape, mean=0.0, std=0.1):
        zero = torch.zeros(()).expand(shape)
        self[name] = zero if self.empty else mean + std * torch.randn(shape)

    def conv(self, name, outs, ins, *sides):
        self.add(f'{name}.weight', outs, ins, *sides, std=(ins * math.prod(sides)) ** -0.5)

    def linear(self, name, outs, ins, bias=True):
        self.conv(name, outs, ins)
        if bias:
            self.add(f'{name}.bias', outs)

    def norm(self, name, channels, statistics=False):
        self.add(f'{name}.weight', channels, mean=1.0)
        self.add(f'{name}.bias', channels)
        if statistics:
            self.add(f'{name}.running_mean', channels)
            self[f'{name}.running_var'] = torch.ones(channels) + torch.rand(channels)
            self[f'{name}.num_batches_tracked'] = torch.tensor(7)


def released_sifa_net(blocks=BLOCKS, width=WIDTH, classes=5, frames=4, **kwargs):
    """A SIFA-Net as the release saves it."""
    w = Weights(**kwargs)
    w.conv('conv1', width, 3, 4, 7, 7)
    w.norm('bn1', width, True)
    for stage in STAGES:
        i = int(stage[5])
        planes = width * 2 ** (i - 1)
        for j in range(blocks[i - 1]):
            block = f'{stage}.{j}'
            ins = 4 * planes if j else (width if i == 1 else 2 * planes)
            convs = [(planes, ins, 1), (planes, planes, 3), (4 * planes, planes, 1)]
            for k, (outs, inputs, side) in enumerate(convs, start=1):
                w.conv(f'{block}.conv{k}', outs, inputs, 1, side, side)
                w.norm(f'{block}.bn{k}', outs, True)
            if j == 0:
                w.conv(f'{block}.downsample.0', 4 * planes, ins, 1, 1, 1)
                w.norm(f'{block}.downsample.1', 4 * planes, True)
            if i > 1 and j % 2 == 0:
                w.linear(f'{block}.fc1', planes // 4, 4 * planes)
                w.linear(f'{block}.fc2', 4 * planes, planes // 4)
            elif i > 1:
                w.conv(f'{block}.conv_offset', 18, planes, 1, 3, 3)
                w[f'{block}.def_cor.weight'] = torch.full((planes, frames, 3, 3), 1 / planes)
    w.linear('fc', classes, 32 * width)
    w.linear('fc_dual', classes, 32 * width)
    return dict(w)


def released_swin(depths=DEPTHS, dim=DIM, heads=HEADS, classes=5, window=7, **kwargs):
    """A SIFA-Swin as the release saves it: every block with both temporal parts."""
    w = Weights(**kwargs)
    w.conv('patch_embed.proj', dim, 3, 4, 4, 4)
    w.add('patch_embed.proj.bias', dim)
    for s, depth in enumerate(depths):
        c = dim * 2**s
        for j in range(depth):
            block = f'layers.{s}.blocks.{j}'
            for norm in ('norm1', 'norm2', 'tda_norm'):
                w.norm(f'{block}.{norm}', c)
            w.linear(f'{block}.attn.qkv', 3 * c, c)
            w.linear(f'{block}.attn.proj', c, c)
            w.add(f'{block}.attn.relative_position_bias_table', (2 * window - 1) ** 2, heads[s])
            w[f'{block}.attn.relative_position_index'] = torch.zeros(1, dtype=torch.long)
            w[f'{block}.attn_mask'] = torch.zeros(1)
            w.linear(f'{block}.mlp.fc1', 4 * c, c)
            w.linear(f'{block}.mlp.fc2', c, 4 * c)
            w.conv(f'{block}.conv', c, c, 1, 3)
            w[f'{block}.def_cor.weight'] = torch.full((c, 4, 3, 3), 1 / c)
        if s < 3:
            w.norm(f'layers.{s}.downsample.norm', 4 * c)
            w.linear(f'layers.{s}.downsample.reduction', 2 * c, 4 * c, bias=False)
    w.norm('norm', 8 * dim)
    w.linear('fc', classes, 8 * dim)
    return dict(w)


# SIFA-Net, position by position


def sample(features, y, x):
    """Interpolate between the four pixels of (C, H, W) around a point; outside there are zeros."""
    top, left = math.floor(y), math.floor(x)
    value = torch.zeros_like(features[:, 0, 0])
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < features.shape[1] and 0 <= column < features.shape[2]:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            value = value + share * features[:, row, column]
    return value


def attend(now, following, offset):
    """What each position of a frame (C, H, W) finds in the next frame."""
    out = torch.zeros_like(now)
    channels, height, width = now.shape
    for y, x in itertools.product(range(height), range(width)):
        for k in range(9):
            dy, dx = offset[2 * k : 2 * k + 2, y, x].tolist()
            seen = sample(following, y + k // 3 - 1 + dy, x + k % 3 - 1 + dx)
            out[:, y, x] += now[:, y, x].dot(seen) / channels * seen
    return out


def sifa(x, kernel):
    """The SIFA block on (N, C, T, H, W)."""
    y = x.clone()
    for n, t in itertools.product(range(len(x)), range(x.shape[2] - 1)):
        now, following = x[n, :, t], x[n, :, t + 1]
        moved = following * (1 + torch.sigmoid(following - now))
        offset = F.conv3d(moved[None, :, None], kernel, padding=(0, 1, 1))[0, :, 0]
        y[n, :, t] += attend(now, following, offset)
    return y


def released_sifa_net_logits(weights, clip):
    w = {name: weight.double() for name, weight in weights.items()}

    def conv_norm(x, conv, norm, **kwargs):
        x = F.conv3d(x, w[f'{conv}.weight'], **kwargs).movedim(1, -1)
        x = (x - w[f'{norm}.running_mean']) / (w[f'{norm}.running_var'] + 1e-5).sqrt()
        return (x * w[f'{norm}.weight'] + w[f'{norm}.bias']).movedim(-1, 1)

    def bottleneck(x, block, stride):
        stride = (1, stride, stride)
        out = conv_norm(x, f'{block}.conv1', f'{block}.bn1').relu()
        out = conv_norm(
            out, f'{block}.conv2', f'{block}.bn2', stride=stride, padding=(0, 1, 1)
        ).relu()
        if f'{block}.conv_offset.weight' in w:
            out = sifa(out, w[f'{block}.conv_offset.weight'])
        out = conv_norm(out, f'{block}.conv3', f'{block}.bn3')
        context = 0
        if f'{block}.fc1.weight' in w:
            context = F.linear(
                out.mean((2, 3, 4)), w[f'{block}.fc1.weight'], w[f'{block}.fc1.bias']
            )
            context = F.linear(context.relu(), w[f'{block}.fc2.weight'], w[f'{block}.fc2.bias'])[
                ..., None, None, None
            ]
        if f'{block}.downsample.0.weight' in w:
            x = conv_norm(x, f'{block}.downsample.0', f'{block}.downsample.1', stride=stride)
        return (out + x + context).relu()

    def stage(x, name, stride):
        blocks = {key.split('.')[1] for key in w if key.startswith(f'{name}.')}
        for j in range(len(blocks)):
            x = bottleneck(x, f'{name}.{j}', 1 if j else stride)
        return x

    def classify(x, fc):
        return F.linear(x.mean((2, 3, 4)), w[f'{fc}.weight'], w[f'{fc}.bias'])

    x = conv_norm(clip, 'conv1', 'bn1', stride=(4, 2, 2), padding=(0, 3, 3)).relu()
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = stage(stage(stage(x, 'layer1', 1), 'layer2', 2), 'layer3', 2)
    slow = F.max_pool3d(x, (2, 1, 1))
    return (
        classify(stage(x, 'layer4', 2), 'fc'),
        classify(stage(slow, 'layer4_dual', 1), 'fc_dual'),
    )


# SIFA-Swin, window by window


def window_attention(x, w, block, window, shift):
    """Attention within windows of (N, T, H, W, C), shifted over the edges."""
    side, channels = x.shape[2], x.shape[4]
    table = w[f'{block}.attn.relative_position_bias_table']
    qkv = F.linear(x, w[f'{block}.attn.qkv.weight'], w[f'{block}.attn.qkv.bias'])
    cells = list(itertools.product(range(window), repeat=2))
    rows = [
        [(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for b in cells]
        for a in cells
    ]
    bias = table[torch.tensor(rows)].permute(2, 0, 1)  # (heads, L, L)
    out = torch.zeros_like(x)
    for top, left in itertools.product(range(0, side, window), repeat=2):
        places = [(top + a + shift, left + b + shift) for a, b in cells]
        # Positions that meet only because the map wraps around do not see each other.
        wrapped = torch.tensor([(y >= side) + 2 * (x >= side) for y, x in places])
        y, x = torch.tensor(places).T % side
        tokens = qkv[:, :, y, x].unflatten(-1, (3, len(bias), -1))  # (N, T, L, 3, heads, D)
        query, key, value = tokens.permute(3, 0, 1, 4, 2, 5)
        scores = query @ key.mT / math.sqrt(channels / len(bias)) + bias
        scores = scores.masked_fill(wrapped[:, None] != wrapped, -math.inf)
        out[:, :, y, x] = (scores.softmax(-1) @ value).transpose(2, 3).flatten(3)
    return F.linear(out, w[f'{block}.attn.proj.weight'], w[f'{block}.attn.proj.bias'])


def attend_undeformed(x):
    """What each position of (N, T, H, W, C) finds around it in the next frame."""
    out = torch.zeros_like(x)
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    for a, b in itertools.product(range(3), repeat=2):
        seen = padded[:, 1:, a : a + x.shape[2], b : b + x.shape[3]]
        out[:, :-1] += (x[:, :-1] * seen).mean(-1, keepdim=True) * seen
    return out


def convolve_time(x, kernel):
    """Convolve (N, T, H, W, C) over three frames."""
    out = torch.zeros_like(x)
    frames = x.shape[1]
    for t, k in itertools.product(range(frames), range(3)):
        if 0 <= t + k - 1 < frames:
            out[:, t] += F.linear(x[:, t + k - 1], kernel[:, :, 0, k])
    return out


def released_swin_logits(weights, clip, window=7):
    w = {name: weight.double() for name, weight in weights.items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'])

    x = F.conv3d(clip, w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], stride=4)
    x = x.movedim(1, -1)
    for s, depth in enumerate(DEPTHS):
        for j in range(depth):
            block = f'layers.{s}.blocks.{j}'
            shifted = j % 2 == 1 and x.shape[2] > window
            shift = window // 2 if shifted else 0
            x = x + window_attention(norm(x, f'{block}.norm1'), w, block, window, shift)
            if shifted:
                x = x + convolve_time(x, w[f'{block}.conv.weight'])
            else:
                x = x + norm(attend_undeformed(x), f'{block}.tda_norm')
            hidden = norm(x, f'{block}.norm2')
            for fc in ('fc1', 'fc2'):
                layer = f'{block}.mlp.{fc}'
                hidden = F.linear(hidden, w[f'{layer}.weight'], w[f'{layer}.bias'])
                hidden = F.gelu(hidden) if fc == 'fc1' else hidden
            x = x + hidden
        if s < 3:
            parts = [x[:, :, a::2, b::2] for b, a in itertools.product(range(2), repeat=2)]
            x = norm(torch.cat(parts, dim=-1), f'layers.{s}.downsample.norm')
            x = F.linear(x, w[f'layers.{s}.downsample.reduction.weight'])
    return F.linear(norm(x, 'norm').mean((1, 2, 3)), w['fc.weight'], w['fc.bias'])


def recognizer(converted):
    model = MODELS.build(converted.model)
    model.load_state_dict(converted.state_dict, strict=True)
    return model.double().eval()


@torch.no_grad()
def test_sifa_net_gives_the_releases_numbers_on_both_paths():
    weights = released_sifa_net()
    clip = torch.randn(2, 3, 16, 64, 48, dtype=torch.double)
    expected = released_sifa_net_logits(weights, clip)
    model = recognizer(convert_release(weights))
    logits = model.cls_head(model.backbone(clip))
    for ours, theirs in zip(logits, expected, strict=True):
        assert 0.1 < theirs.std() < 1000
        torch.testing.assert_close(ours, theirs.float())  # the head's logits are float32


@torch.no_grad()
def test_swin_gives_the_releases_numbers():
    weights = released_swin()
    clip = torch.randn(2, 3, 12, 224, 224, dtype=torch.double)
    expected = released_swin_logits(weights, clip)
    assert 0.1 < expected.std() < 1000
    model = recognizer(convert_release(weights))
    torch.testing.assert_close(model.cls_head(model.backbone(clip)), expected)


@pytest.mark.parametrize('make', [released_sifa_net, released_swin], ids=['sifa-net', 'swin'])
@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: {'model': weights, 'epoch': 64},
        lambda weights: {'state_dict': {f'module.{k}': v for k, v in weights.items()}},
        lambda weights: {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
    ],
    ids=['model', 'module-in-state_dict', 'half'],
)
def test_checkpoints_and_half_precision_are_taken(make, wrap):
    weights = make()
    expected = convert_released_state_dict(weights)
    wrapped = wrap(weights)
    with DefaultScope.overwrite_default_scope('mmengine'):  # as where no config was read
        converted = convert_released_state_dict(wrapped)
    half = wrapped.get('fc.weight', weights['fc.weight']).dtype == torch.half
    assert type(converted) is dict
    assert converted.keys() == expected.keys()
    for name, tensor in converted.items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.dtype == torch.float32 or 'index' in name or 'num_batches' in name
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3 if half else 0, atol=1e-6)


def test_nothing_of_the_input_is_shared_or_changed():
    weights = released_sifa_net()
    before = {name: weight.clone() for name, weight in weights.items()}
    for tensor in convert_released_state_dict(weights).values():
        tensor.zero_()
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]), name


def test_sifa_nets_batch_counts_are_carried_over_or_start_at_zero():
    weights = released_sifa_net()
    name = 'backbone.layer2.1.conv2.bn.num_batches_tracked'
    assert convert_released_state_dict(weights)[name] == 7
    del weights['layer2.1.bn2.num_batches_tracked']
    assert convert_released_state_dict(weights)[name] == 0


def test_what_is_not_used_is_listed(monkeypatch):
    converted = convert_release(released_sifa_net())
    assert converted.unused == [
        f'{stage}.1.def_cor.weight' for stage in ('layer2', 'layer3', 'layer4', 'layer4_dual')
    ]
    assert converted.num_weights == len(converted.state_dict)
    swin = released_swin()
    unused = set()
    for s, depth in enumerate(DEPTHS):
        for j in range(depth):
            shifted = j == 1 and s < 3
            parts = ['attn.relative_position_index', 'attn_mask', 'def_cor.weight']
            parts += ['tda_norm.weight', 'tda_norm.bias'] if shifted else ['conv.weight']
            unused |= {f'layers.{s}.blocks.{j}.{part}' for part in parts}
    converted = convert_release(swin)
    assert set(converted.unused) == unused
    lines = []
    monkeypatch.setattr('mmsifa.apis.conversion.print_log', lambda line, logger: lines.append(line))
    convert_released_state_dict(swin)
    assert len(lines) == 1
    assert f'not used: {converted.unused}' in lines[0]


@pytest.mark.parametrize(
    ('make', 'options', 'backbone', 'in_channels'),
    [
        (
            released_sifa_net,
            dict(blocks=(2, 1, 4, 3), width=16, frames=8),
            dict(stage_blocks=(2, 1, 4, 3), base_channels=16),
            512,
        ),
        (
            released_swin,
            dict(depths=(1, 2, 5, 2), dim=12, heads=(3, 1, 2, 6), window=4),
            dict(
                arch=dict(embed_dims=12, depths=(1, 2, 5, 2), num_heads=(3, 1, 2, 6)),
                window_size=(1, 4, 4),
                deformable=False,
                patch_norm=False,
            ),
            96,
        ),
    ],
    ids=['sifa-net', 'swin'],
)
def test_depth_widths_and_classes_follow_from_names_and_shapes(
    make, options, backbone, in_channels
):
    converted = convert_release(make(classes=9, **options))
    model = dict(converted.model['backbone'])
    assert model.pop('type') == ('SIFANet' if make is released_sifa_net else 'SIFATransformer')
    assert model == backbone
    head = converted.model['cls_head']
    assert (head['num_classes'], head['in_channels']) == (9, in_channels)


def test_all_that_is_wrong_is_named_at_once():
    weights = released_sifa_net()
    del weights['layer2.1.conv_offset.weight']
    weights['layer3.0.conv2.weight'] = torch.zeros(32, 32, 3, 3)
    weights['layer4.0.conv_offset.weight'] = torch.zeros(18, 64, 1, 3, 3)
    weights['layer3.1.def_cor.weight'] = torch.rand(32, 4, 3, 3)
    weights['fc_dual.bias'] = 'five'
    message = (
        r'released SIFA-Net with 1-2-3-2 bottlenecks and 8 channels: '
        r'layer2\.1\.conv_offset\.weight is missing; '
        r'layer3\.0\.conv2\.weight has shape \(32, 32, 3, 3\), expected \(32, 32, 1, 3, 3\); '
        r'fc_dual\.bias is str, expected torch\.float32; '
        r'layer4\.0\.conv_offset\.weight is unknown; '
        r'layer3\.1\.def_cor\.weight is not 1/32 everywhere$'
    )
    with pytest.raises(ValueError, match=message):
        convert_released_state_dict(weights)

    weights = released_swin()
    del weights['layers.1.blocks.0.tda_norm.bias']
    weights['layers.0.blocks.1.conv.weight'] = torch.zeros(8, 8, 3, 1)
    weights['layers.3.blocks.1.def_cor.weight'] *= 1.01
    weights['patch_embed.norm.weight'] = torch.zeros(8)
    message = (
        r'released SIFA-Swin with 2-2-3-2 blocks and 8 channels: '
        r'layers\.0\.blocks\.1\.conv\.weight has shape \(8, 8, 3, 1\), expected \(8, 8, 1, 3\); '
        r'layers\.1\.blocks\.0\.tda_norm\.bias is missing; '
        r'patch_embed\.norm\.weight is unknown; '
        r'layers\.3\.blocks\.1\.def_cor\.weight is not 1/64 everywhere$'
    )
    with pytest.raises(ValueError, match=message):
        convert_released_state_dict(weights)


@pytest.mark.parametrize(
    'missing', ['conv1.weight', 'fc.weight', 'layer3.', 'patch_embed.proj.weight', 'layers.2.']
)
def test_what_the_network_is_inferred_from_may_miss(missing):
    make = (
        released_swin if missing in ('patch_embed.proj.weight', 'layers.2.') else released_sifa_net
    )
    weights = {k: v for k, v in make().items() if not k.startswith(missing)}
    with pytest.raises(ValueError, match=rf'channels: (.*; )?{re.escape(missing)}\S* is missing'):
        convert_released_state_dict(weights)


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'backbone.conv1.conv.weight': torch.zeros(1)}, r"got \['backbone.conv1.conv.weight'\]"),
        ({}, r'expected weights of the released SIFA-Net.*got \[\]'),
        ([torch.zeros(1)], 'expected a checkpoint with a dict of weights, got list'),
        ({'model': None}, 'dict of weights as its model, got NoneType$'),
        ({'model': [1]}, 'dict of weights as its model, got list$'),
        (released_sifa_net(blocks=(3, 4, 6, 3), empty=True) | {'conv1.weight': torch.zeros(8)},
         r'conv1\.weight has shape \(8,\), expected \(8, 3, 4, 7, 7\)$'),
        ({'conv1.weight': torch.zeros(64, 3, 7, 7)}, r'bn1.weight is missing;.* and \d+ more$'),
    ],
    ids=['converted', 'empty', 'list', 'model-none', 'model-list', 'stem', 'resnet'],
)  # fmt: skip
def test_other_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        convert_released_state_dict(weights)


@pytest.mark.parametrize(
    ('make', 'changes', 'message'),
    [
        (released_sifa_net, {'layer1.400.conv1.weight': torch.zeros(1)},
         r'layer1\.400 is named, but the \d+ weights named layer1\.\* are too few for as many'),
        (released_swin, {f'layers.2.blocks.{"9" * 5000}.norm1.bias': torch.zeros(1)}, 'too few'),
        (released_sifa_net, {'fc.weight': torch.empty(10**9, 0)},
         r'fc\.weight has shape \(1000000000, 0\), expected \(5, 256\)'),
        (released_sifa_net, {'fc.weight': torch.zeros(()).expand(10**9, 256)},
         r'fc\.bias has shape \(5,\), expected \(1000000000,\)'),
        (released_sifa_net, {'conv1.weight': torch.zeros(()).expand(10**6, 3, 4, 7, 7)},
         r'bn1\.weight has shape \(8,\), expected \(1000000,\)'),
        (released_sifa_net, {'conv1.weight': torch.zeros(()).expand(10**10, 3)},
         'no SIFA-Net with .* can be built'),
    ],
    ids=['blocks', 'digits', 'no-numbers', 'classes', 'channels', 'overflow'],
)  # fmt: skip
def test_what_names_and_shapes_claim_is_not_built(make, changes, message):
    weights = make() | changes
    with pytest.raises(ValueError, match=message):
        convert_released_state_dict(weights)


def test_windows_that_the_file_does_not_back_are_not_built():
    table = torch.zeros(()).expand((2 * 5000 - 1) ** 2, 1)
    weights = released_swin(depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    weights |= {name: table for name in weights if name.endswith('bias_table')}
    with pytest.raises(ValueError, match=r'windows that large need 2500000000000000 positions'):
        convert_released_state_dict(weights)


# The tool


@pytest.fixture(scope='module')
def read_once():
    """Let each config be read once."""
    read = functools.cache(Config.fromfile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(read(path)))
        yield


SWIN_OPTIONS = 'model.backbone.deformable=False model.backbone.patch_norm=False'
R50 = dict(blocks=(3, 4, 6, 3), width=64)
SWIN = dict(depths=(2, 2, 18, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('weights', 'configs'),
    [
        (
            released_sifa_net(**R50, classes=400, empty=True),
            'configs/sifa_r50_32f_k400.py or configs/sifa_r50_k400.py',
        ),
        (
            released_sifa_net(**R50, classes=7, empty=True),
            'configs/sifa_r50_k400.py --cfg-options model.cls_head.num_classes=7 or ',
        ),
        (
            released_sifa_net((3, 4, 23, 3), 64, classes=400, empty=True),
            'configs/sifa_r101_k400.py',
        ),
        (
            released_swin(**SWIN, dim=96, heads=(3, 6, 12, 24), classes=400, empty=True),
            f'configs/sifa_swin_s_k400.py --cfg-options {SWIN_OPTIONS}',
        ),
        (released_sifa_net(), "none of ours; its model is {'type': 'Recognizer3D'"),
    ],
    ids=['r50-k400', 'r50-7-classes', 'r101', 'swin-s', 'small'],
)
def test_the_config_that_fits_is_named(weights, configs, read_once):
    converted = convert_release(weights)
    found = fitting_configs(converted)
    assert configs in found
    for line in found.split(' or '):
        if line.startswith('configs/'):
            path, *options = line.replace(' --cfg-options', '').split()
            cfg = Config.fromfile(path)
            cfg.merge_from_dict({k: literal_eval(v) for k, v in (o.split('=') for o in options)})
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
            model.load_state_dict(converted.state_dict, strict=True, assign=True)


@pytest.fixture(scope='module')
def small_release(tmp_path_factory):
    """A released checkpoint that fits a small form of sifa_tiny_motion."""
    torch.manual_seed(0)
    weights = released_sifa_net(blocks=(1, 2, 1, 1), width=8, classes=8)
    path = tmp_path_factory.mktemp('release') / 'release.pth'
    torch.save({'model': weights, 'epoch': 3}, path)
    return path, weights


def test_tool_writes_a_checkpoint_for_test_and_init_recognizer(
    small_release, motion_data, tmp_path, run
):
    path, weights = small_release
    out = tmp_path / 'ours.pth'
    text = run('mmsifa', 'convert', path, out).stdout
    assert 'network: SIFA-Net with 1-2-1-1 bottlenecks and 8 channels\nclasses: 8\n' in text
    assert f'weights: {len(weights) - 1}\nnot used: layer2.1.def_cor.weight\nconfig: ' in text
    assert list(tmp_path.iterdir()) == [out]
    checkpoint = torch.load(out, weights_only=True)
    assert checkpoint.keys() == {'meta', 'state_dict'}
    assert checkpoint['meta']['mmengine_version']

    options = [
        'model.backbone.base_channels=8',
        'model.backbone.stage_blocks=(1,2,1,1)',
        'model.cls_head.in_channels=256',
        f'test_dataloader.dataset.ann_file={motion_data}/val_list_videos.txt',
        f'test_dataloader.dataset.data_prefix.video={motion_data}/videos_val',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    config = 'configs/sifa_tiny_motion.py'
    dump = tmp_path / 'scores.pkl'
    text = run('mmsifa', 'run', 'test', config, out, '--dump', dump, '--work-dir', tmp_path,
               '--cfg-options', *options).stdout  # fmt: skip
    assert 'do not match' not in text
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(base_channels=8, stage_blocks=(1, 2, 1, 1)),
                cls_head=dict(in_channels=256),
            )
        )
    )
    model = init_recognizer(cfg, str(out), device='cpu')
    torch.testing.assert_close(dict(model.state_dict()), convert_released_state_dict(weights))
    first = (motion_data / 'val_list_videos.txt').read_text().split()[0]
    scores = inference_recognizer(model, str(motion_data / 'videos_val' / first)).pred_score
    torch.testing.assert_close(load(str(dump))[0]['pred_score'], scores, rtol=1e-4, atol=1e-5)


def test_tool_says_what_is_wrong(small_release, tmp_path, capsys):
    path, _ = small_release
    before = path.read_bytes()
    other, unsafe = tmp_path / 'other.pth', tmp_path / 'unsafe.pth'
    text, short, empty = (tmp_path / f'{name}.pth' for name in ('text', 'short', 'empty'))
    torch.save({'fc.weight': torch.zeros(1)}, other)
    torch.save({'path': tmp_path}, unsafe)
    nothing = tmp_path / 'nothing.pth'
    torch.save({'model': None}, nothing)
    text.write_text('no checkpoint')
    short.write_bytes(before[:5000])
    empty.touch()
    link = tmp_path / 'link.pth'
    link.symlink_to(path)
    for arguments, message in (
        (('missing.pth', tmp_path / 'out.pth'), 'no such file: missing.pth'),
        ((path, path), 'not overwritten: name another file'),
        ((path, link), 'not overwritten: name another file'),
        ((path, tmp_path), f'{tmp_path} cannot be written: a folder of this name is there'),
        ((path, text / 'out.pth'), f'out.pth cannot be written: {text} is no folder'),
        ((other, tmp_path / 'out.pth'), 'expected weights of the released SIFA-Net'),
        ((nothing, tmp_path / 'out.pth'), 'dict of weights as its model, got NoneType'),
        ((unsafe, tmp_path / 'out.pth'), 'refused to load'),
        ((text, tmp_path / 'out.pth'), f'cannot read {text}: '),
        ((short, tmp_path / 'out.pth'), f'cannot read {short}: '),
        ((empty, tmp_path / 'out.pth'), f'cannot read {empty}: refused to load the checkpoint'),
    ):
        with pytest.raises(SystemExit, match=r'^2$'):
            main(['convert', *map(str, arguments)])
        error = capsys.readouterr().err.split('error: ', 1)[1]
        assert message in error
        assert error.count('\n') == 1
    assert path.read_bytes() == before
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')  # which a second letter may be
@pytest.mark.parametrize('text', ['i there\n', 'ttp://x\n', ' 1 2 3\n', ''], ids=repr)
def test_tool_refuses_text_whatever_it_begins_with(text, tmp_path, capsys):
    path = tmp_path / 'text.pth'
    for first in string.printable:
        path.write_text(first + text)
        with pytest.raises(SystemExit, match=r'^2$'):
            main(['convert', str(path), str(tmp_path / 'out.pth')])
        error = capsys.readouterr().err.split('error: ', 1)[1]
        assert error.startswith(f'cannot read {path}: refused to load the checkpoint'), first
        assert error.count('\n') == 1, first


def test_tool_leaves_what_was_there_if_it_cannot_write(small_release, tmp_path, capsys):
    out = tmp_path / 'ours.pth'
    out.write_text('before')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, before[1]))
    try:
        with pytest.raises(SystemExit, match=r'^2$'):
            main(['convert', str(small_release[0]), str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f'cannot write {out}' in capsys.readouterr().err
    assert out.read_text() == 'before'
    assert list(tmp_path.iterdir()) == [out]
