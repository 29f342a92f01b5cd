"""2D weights load under any of the names that they have in other libraries."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmaction.models.backbones.swin import SwinTransformer3D
from mmengine.registry import DefaultScope

from mmsifa.models import SIFANet, SIFATransformer

ARCH = dict(embed_dims=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8))


def randomized(net):
    """Give every parameter and statistic a random value."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name, buffer in net.named_buffers():
        if 'running' in name:
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return net.eval() or net  # MMAction2's Swin returns nothing here


def loaded(net, weights, tmp_path):
    """Initialize a network with the same random numbers and these weights."""
    torch.manual_seed(1)
    torch.save(weights, tmp_path / 'weights.pth')
    net = net(pretrained=str(tmp_path / 'weights.pth'))
    net.init_weights()
    return net.eval()


def swin(**kwargs):
    return SIFATransformer(ARCH, **kwargs)


def r50(**kwargs):
    return SIFANet(stage_with_sifa=[False] * 4, dual_path=False, **kwargs)


@pytest.fixture(scope='module')
def official():
    """Random weights of a 2D Swin with the official names, classifier and buffers included."""
    torch.manual_seed(0)
    net = randomized(SwinTransformer3D(ARCH, window_size=(1, 7, 7), patch_size=(1, 4, 4)))
    weights = {k.replace('norm3.', 'norm.'): v.clone() for k, v in net.state_dict().items()}
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['head.weight'], weights['head.bias'] = torch.randn(5, 128), torch.randn(5)
    return weights


def torchvisions_name(name):
    kind, *rest = name.split('.')
    if kind == 'patch_embed':
        return '.'.join(['features', '0', {'proj': '0', 'norm': '2'}[rest[0]], rest[1]])
    if kind != 'layers':
        return name
    stage, part, *rest = rest
    if part == 'downsample':
        return '.'.join(['features', str(2 * int(stage) + 2), *rest])
    rest = ['0' if r == 'fc1' else '3' if r == 'fc2' else r for r in rest]
    return '.'.join(['features', str(2 * int(stage) + 1), *rest])


def timms_name(name):
    kind, *rest = name.split('.')
    if kind == 'layers' and rest[1] == 'downsample':
        return '.'.join([kind, str(int(rest[0]) + 1), *rest[1:]])
    return f'head.fc.{rest[0]}' if kind == 'head' else name


def mmpretrains_name(name):
    if name.startswith('head.'):
        return name.replace('head', 'head.fc')
    for old, new in {
        'patch_embed.proj': 'patch_embed.projection',
        'layers': 'stages',
        'attn': 'attn.w_msa',
        'mlp.fc1': 'ffn.layers.0.0',
        'mlp.fc2': 'ffn.layers.1',
    }.items():
        name = re.sub(rf'\b{re.escape(old)}\b', new, name)
    return 'backbone.' + re.sub('^norm', 'norm3', name)


def in_mmpretrains_order(name, weight):
    """Sort what merges patches by channel, row, column instead of column, row, channel."""
    if '.downsample.' not in name:
        return weight
    channels = weight.shape[-1] // 4
    order = [(2 * x + y) * channels + c for c in range(channels) for y in (0, 1) for x in (0, 1)]
    return weight[..., order]


def renamed(official, naming):
    if naming == 'torchvision':
        return {torchvisions_name(name): weight for name, weight in official.items()}
    if naming == 'timm':  # which saves no index buffers
        return {timms_name(k): v for k, v in official.items() if not k.endswith('position_index')}
    weights = {
        mmpretrains_name(name): in_mmpretrains_order(name, weight)
        for name, weight in official.items()
    }
    return {'state_dict': weights, 'meta': {}}


@pytest.mark.parametrize('naming', ['torchvision', 'timm', 'mmpretrain'])
def test_swin_loads_under_other_names_as_under_the_official_ones(official, naming, tmp_path):
    weights = renamed(official, naming)
    expected = loaded(swin, official, tmp_path).state_dict()
    state = loaded(swin, weights, tmp_path).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    ('naming', 'missing', 'official_name'),
    [
        ('torchvision', 'features.3.1.mlp.3.bias', 'layers.1.blocks.1.mlp.fc2.bias'),
        ('timm', 'layers.1.downsample.norm.bias', 'layers.0.downsample.norm.bias'),
        (
            'mmpretrain',
            'backbone.stages.2.blocks.0.attn.w_msa.qkv.bias',
            'layers.2.blocks.0.attn.qkv.bias',
        ),
    ],
)
def test_a_swin_that_lacks_a_weight_is_refused_under_every_naming(
    official, naming, missing, official_name, tmp_path
):
    weights = renamed(official, naming)
    del weights.get('state_dict', weights)[missing]
    message = (
        rf"in {naming}'s naming \(here in the official one\): {official_name} is missing\. "
        r"Of the names in the file these are not used: \['head\.\S*bias', 'head\.\S*weight'\]$"
    )
    with pytest.raises(ValueError, match=message):
        loaded(swin, weights, tmp_path)


def test_a_merging_of_another_width_is_named(official, tmp_path):
    weights = renamed(official, 'mmpretrain')
    weights['state_dict']['backbone.stages.0.downsample.norm.bias'] = torch.zeros(6)
    with pytest.raises(ValueError, match=r'layers\.0\.downsample\.norm\.bias has shape \(6,\)'):
        loaded(swin, weights, tmp_path)


@pytest.mark.parametrize('weight', [torch.tensor(1.0), torch.zeros(9, 0), 'text'], ids=repr)
def test_weights_of_odd_shapes_are_named(official, weight, tmp_path):
    weights = renamed(official, 'mmpretrain')
    for part in ('blocks.0.attn.w_msa.relative_position_bias_table', 'downsample.norm.bias'):
        weights['state_dict'][f'backbone.stages.0.{part}'] = weight
    with pytest.raises(ValueError, match=r'bias_table (has shape|is) .*norm\.bias (has shape|is) '):
        loaded(swin, weights, tmp_path)


def test_official_names_in_a_backbone_are_not_taken_for_mmpretrains(official, tmp_path):
    weights = {f'backbone.{name}': weight for name, weight in official.items()}
    message = r"in the official naming: .* is missing.* not used: \['backbone\.head\.bias', "
    with pytest.raises(ValueError, match=message):
        loaded(swin, weights, tmp_path)


@torch.no_grad()
def test_mmpretrains_patch_merging_keeps_its_results(tmp_path, official):
    """Mmpretrain stacks a patch's neighbours by nn.Unfold."""
    weights = renamed(official, 'mmpretrain')['state_dict']
    net = loaded(swin, weights, tmp_path)
    for s in range(3):
        channels = 16 * 2**s
        frame = torch.randn(1, 7, 6, channels)
        prefix = f'backbone.stages.{s}.downsample'
        padded = F.pad(frame.permute(0, 3, 1, 2), (0, 0, 0, 1))
        merged = torch.nn.Unfold(2, stride=2)(padded).mT
        merged = F.layer_norm(
            merged, merged.shape[-1:], weights[f'{prefix}.norm.weight'],
            weights[f'{prefix}.norm.bias'],
        )  # fmt: skip
        expected = (merged @ weights[f'{prefix}.reduction.weight'].T).unflatten(1, (4, 3))
        ours = net.layers[s].downsample(frame[:, None])[:, 0]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


# The libraries themselves, where they are installed and import


def mmpretrains(models, backbone, channels):
    head = dict(type='LinearClsHead', num_classes=5, in_channels=channels)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return models.ImageClassifier(backbone, head=head)


@pytest.mark.parametrize('library', ['torchvision', 'timm', 'mmpretrain'])
@torch.no_grad()
def test_swin_has_the_features_of_the_librarys_own(library, import_or_skip, tmp_path):
    frames = torch.rand(2, 3, 224, 224)
    depths, heads = ARCH['depths'], ARCH['num_heads']
    if library == 'torchvision':
        module = import_or_skip('torchvision.models.swin_transformer')
        net = randomized(module.SwinTransformer([4, 4], 16, depths, heads, [7, 7]))
        expected = net.norm(net.features(frames)).permute(0, 3, 1, 2)
    elif library == 'timm':
        module = import_or_skip('timm.models.swin_transformer')
        net = randomized(module.SwinTransformer(embed_dim=16, depths=depths, num_heads=heads))
        expected = net.forward_features(frames).permute(0, 3, 1, 2)
    else:
        module = import_or_skip('mmpretrain.models')
        net = randomized(mmpretrains(module, dict(type='SwinTransformer', arch=ARCH), 128))
        (expected,) = net.backbone(frames)
    ours = loaded(swin, net.state_dict(), tmp_path)
    clip = frames[:, :, None].expand(-1, -1, 8, -1, -1)
    for features in ours(clip).unbind(2):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('library', ['torchvision', 'timm', 'mmpretrain'])
@torch.no_grad()
def test_resnet_has_the_features_of_the_librarys_own(library, import_or_skip, tmp_path):
    frames = torch.rand(2, 3, 64, 96)
    if library == 'torchvision':
        module = import_or_skip('torchvision.models.resnet')
        net = randomized(module.ResNet(module.Bottleneck, [3, 4, 6, 3]))
        stem = net.maxpool(net.relu(net.bn1(net.conv1(frames))))
        expected = net.layer4(net.layer3(net.layer2(net.layer1(stem))))
    elif library == 'timm':
        module = import_or_skip('timm.models.resnet')
        net = randomized(module.ResNet(module.Bottleneck, [3, 4, 6, 3]))
        expected = net.forward_features(frames)
    else:
        module = import_or_skip('mmpretrain.models')
        net = randomized(mmpretrains(module, dict(type='ResNet', depth=50), 2048))
        (expected,) = net.backbone(frames)

    ours = loaded(r50, net.state_dict(), tmp_path)
    clip = frames[:, :, None].expand(-1, -1, 8, -1, -1)
    for features in ours(clip).unbind(2):
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
