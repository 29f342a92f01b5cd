"""Weights of 2D networks fill ours under any library's names; those that do not fit are named."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmaction.models.backbones.swin import SwinTransformer3D
from mmengine.registry import DefaultScope
from small_networks import ARCH, SMALL, torchvision_weights

from mmsifa.models import SIFANet, SIFATransformer

DEEPER = dict(embed_dims=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8))


@pytest.mark.slow
def test_2d_weights_fill_the_stem_and_both_fourth_stages(weights_file):
    weights = torch.load(weights_file)
    net = SIFANet(pretrained=weights_file)
    net.init_weights()
    stem = net.conv1.conv.weight.unflatten(1, (3, 4))
    assert torch.equal(stem[:, :, 2], weights['conv1.weight'])
    assert not stem[:, :, [0, 1, 3]].any()
    for stage in (net.layer4, net.layer4_dual):
        assert torch.equal(stage[1].conv2.conv.weight, weights['layer4.1.conv2.weight'])
        mean = stage[0].downsample.bn.running_mean
        assert torch.equal(mean, weights['layer4.0.downsample.1.running_mean'])
    assert torch.equal(net.layer3[5].conv3.bn.weight, weights['layer3.5.bn3.weight'])
    assert not net.layer3[5].sifa.conv_offset.weight.any()


@pytest.mark.slow
def test_2d_weights_load_under_mmpretrains_names_as_under_torchvisions(weights_file, tmp_path):
    named = {
        ('head.' if name.startswith('fc') else 'backbone.') + name: weight
        for name, weight in torch.load(weights_file).items()
    }
    torch.save({'state_dict': named, 'meta': {}}, tmp_path / 'mmpretrain.pth')
    nets = [SIFANet(pretrained=str(p)) for p in (weights_file, tmp_path / 'mmpretrain.pth')]
    for net in nets:
        net.init_weights()
    state = nets[1].state_dict()
    for name, tensor in nets[0].state_dict().items():
        if '.fc1.' not in name:  # which starts at random
            assert torch.equal(state[name], tensor), name


@pytest.mark.slow
def test_2d_weights_of_a_data_parallel_model_load(weights_file, tmp_path):
    weights = torch.load(weights_file)
    torch.save({f'module.{k}': v for k, v in weights.items()}, tmp_path / 'parallel.pth')
    net = SIFANet(pretrained=str(tmp_path / 'parallel.pth'))
    net.init_weights()
    assert torch.equal(net.layer4[1].conv2.conv.weight, weights['layer4.1.conv2.weight'])


@pytest.mark.slow
def test_wrong_2d_weights_are_named(tmp_path, weights_file):
    weights = torch.load(weights_file)
    del weights['layer3.0.bn1.bias']
    weights['layer2.1.conv2.weight'] = torch.zeros(7, 7, 3, 3)
    torch.save({'state_dict': weights}, tmp_path / 'broken.pth')
    with pytest.raises(ValueError, match=r'3-4-6-3 bottlenecks in torchvision.*'
                       r'layer2.1.conv2.weight has shape \(7, 7, 3, 3\), which does not fit '
                       r'layer2.1.conv2.conv.weight \(128, 128, 3, 3\); '
                       r"layer3.0.bn1.bias is missing\. .* not used: \['fc.bias', 'fc.weight'\]$"
                       ):  # fmt: skip
        SIFANet(pretrained=str(tmp_path / 'broken.pth')).init_weights()
    torch.save({'whatever': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r"conv1.weight is missing; bn1.weight is missing.* more.*"
                       r"not used: \['whatever'\]$"):  # fmt: skip
        SIFANet(pretrained=str(tmp_path / 'other.pth')).init_weights()


@pytest.mark.parametrize(
    ('file', 'net', 'message'),
    [
        (
            dict(blocks=(1, 2, 3, 2)),
            {},
            r"18 of its weights have no place there\. .*\['layer3\.2\.",
        ),
        (dict(blocks=(1, 2, 1, 2)), {}, r'layer3\.1\.conv1\.weight is missing; .* and 5 more'),
        (
            {},
            dict(norm_cfg=dict(type='GN', num_groups=2)),
            r"78 of its weights .* not used: .*running_mean'",
        ),
        (dict(extra='fc.0.weight'), {}, r"1 of its weights .*\['fc\.0\.weight'\]$"),
        (dict(extra='neck.bias'), {}, r"1 of its weights .*\['neck\.bias'\]$"),
    ],
    ids=['deeper', 'shallower', 'other-norm', 'projection', 'neck'],
)
def test_2d_weights_without_a_place_are_named(file, net, message, tmp_path):
    file = dict(file)
    extra = file.pop('extra', None)
    weights = torchvision_weights(file.get('blocks', (1, 2, 2, 2)), 8)
    torch.save(weights | ({extra: torch.zeros(8)} if extra else {}), tmp_path / '2d.pth')
    with pytest.raises(ValueError, match=message):
        SIFANet(**SMALL, **net, pretrained=str(tmp_path / '2d.pth')).init_weights()


def test_weights_of_r101_are_not_those_of_r50(tmp_path):
    torch.save(torchvision_weights((3, 4, 23, 3), 8), tmp_path / 'r101.pth')
    message = r"3-4-6-3 bottlenecks .*: 306 of its weights have no place there\. .*'layer3\.10\."
    with pytest.raises(ValueError, match=message):
        SIFANet(50, base_channels=8, pretrained=str(tmp_path / 'r101.pth')).init_weights()


@pytest.mark.parametrize('head', ['fc', 'head', 'head.fc', 'classifier'])
def test_classifiers_and_later_stages_of_2d_weights_are_left_out(head, tmp_path):
    weights = torchvision_weights((1, 2, 2, 2), 8)
    for key in ('weight', 'bias'):
        weights[f'{head}.{key}'] = weights.pop(f'fc.{key}')
    torch.save(weights, tmp_path / '2d.pth')
    net = SIFANet(**SMALL, num_stages=3, out_indices=(2,), dual_path=False,
                  pretrained=str(tmp_path / '2d.pth'))  # fmt: skip
    net.init_weights()
    assert torch.equal(net.layer3[1].conv2.conv.weight, weights['layer3.1.conv2.weight'])


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
def test_own_weights_in_pretrained_are_sent_to_init_cfg(prefix, tmp_path):
    net = SIFANet(**SMALL, pretrained=str(tmp_path / 'own.pth'))
    weights = {prefix + name: weight for name, weight in net.state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'own.pth')
    option = ", prefix='backbone.'" if prefix == 'backbone.' else ''
    option = f"init_cfg=dict(type='Pretrained', checkpoint=...{option})"
    with pytest.raises(ValueError, match=f'this backbone itself: .* {re.escape(option)}$'):
        net.init_weights()


# Swin


@torch.no_grad()
def test_position_tables_of_another_window_are_resized(official_file):
    net = SIFATransformer(ARCH, pretrained=official_file, window_size=(2, 5, 5))
    net.init_weights()
    table = torch.load(official_file)['model'][
        'layers.1.blocks.0.attn.relative_position_bias_table'
    ]
    ours = net.layers[1].blocks[0].attn.relative_position_bias_table
    square = table.T.reshape(1, 2, 13, 13)
    resized = torch.nn.functional.interpolate(square, (9, 9), mode='bicubic')[0]
    for frame in ours.unflatten(0, (3, 81)):
        torch.testing.assert_close(frame, resized.flatten(1).T)


def test_wrong_weights_of_a_2d_swin_are_named(official_file, tmp_path):
    net = SIFATransformer('tiny', pretrained=official_file)
    with pytest.raises(ValueError, match='2D Swin with 2-2-6-2 blocks and 96 channels'):
        net.init_weights()
    torch.save({'other': torch.zeros(1)}, tmp_path / 'other.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'other.pth'), pretrained2d=False)
    with pytest.raises(ValueError, match=r'patch_embed\.proj\.weight'):
        net.init_weights()


@pytest.mark.parametrize('depths', [(2, 2, 1, 2), (2, 2, 2, 1)], ids=['stage-3', 'stage-4'])
def test_2d_weights_of_a_deeper_swin_are_named(official_file, depths):
    net = SIFATransformer(ARCH | dict(depths=depths), pretrained=official_file)
    message = rf'with {"-".join(map(str, depths))} .*: 13 of its weights have no place there'
    with pytest.raises(ValueError, match=message):
        net.init_weights()


def test_2d_weights_that_an_option_turns_off_are_named(official_file):
    with pytest.raises(ValueError, match=r"2 of its weights .*\['patch_embed\.norm\.bias', "):
        SIFATransformer(ARCH, pretrained=official_file, patch_norm=False).init_weights()


@torch.no_grad()
def test_2d_weights_load_into_fewer_stages_and_outputs(swin, official_file):
    first_two = {key: value[:2] for key, value in ARCH.items() if key != 'embed_dims'}
    small = SIFATransformer(first_two | dict(embed_dims=16), out_indices=(1,),
                            pretrained=official_file)  # fmt: skip
    inner = SIFATransformer(ARCH, out_indices=(1,), pretrained=official_file)
    clip = torch.rand(1, 3, 8, 64, 64)
    for net in (small, inner):
        net.init_weights()
        net.eval()
    torch.testing.assert_close(small(clip), inner(clip))
    assert torch.equal(
        inner.layers[3].blocks[1].mlp.fc2.bias, swin.layers[3].blocks[1].mlp.fc2.bias
    )


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
def test_own_weights_taken_for_2d_ones_are_sent_elsewhere(prefix, tmp_path):
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'own.pth'))
    weights = {prefix + name: weight for name, weight in net.state_dict().items()}
    torch.save(weights, tmp_path / 'own.pth')
    option = r"checkpoint=\.\.\., prefix='backbone\.'\)" if 'b' in prefix else 'pretrained2d=False'
    with pytest.raises(ValueError, match=f'norm.weight is missing.*backbone itself: .*{option}$'):
        net.init_weights()


def test_names_of_a_3d_swin_are_named(tmp_path):
    torch.save(SwinTransformer3D(ARCH).state_dict(), tmp_path / '3d.pth')
    message = (
        r'norm.weight is missing; norm.bias is missing\. '
        r"Of the names in the file these are not used: \['norm3.bias', 'norm3.weight'\]$"
    )
    net = SIFATransformer(ARCH, (tmp_path / '3d.pth').as_posix(), patch_size=(2, 4, 4),
                          window_size=(8, 7, 7))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        net.init_weights()


def test_weights_of_a_data_parallel_2d_swin_load(official_file, tmp_path):
    weights = torch.load(official_file)['model']
    torch.save({f'module.{k}': v for k, v in weights.items()}, tmp_path / 'parallel.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'parallel.pth'))
    net.init_weights()
    assert torch.equal(net.norm3.weight, weights['norm.weight'])


def all_random(net):
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


def sifa_swin(**kwargs):
    return SIFATransformer(DEEPER, **kwargs)


def sifa_r50(**kwargs):
    return SIFANet(stage_with_sifa=[False] * 4, dual_path=False, **kwargs)


@pytest.fixture(scope='module')
def official():
    """Random weights of a 2D Swin with the official names, classifier and buffers included."""
    torch.manual_seed(0)
    net = all_random(SwinTransformer3D(DEEPER, window_size=(1, 7, 7), patch_size=(1, 4, 4)))
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
    expected = loaded(sifa_swin, official, tmp_path).state_dict()
    state = loaded(sifa_swin, weights, tmp_path).state_dict()
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
        loaded(sifa_swin, weights, tmp_path)


def test_a_merging_of_another_width_is_named(official, tmp_path):
    weights = renamed(official, 'mmpretrain')
    weights['state_dict']['backbone.stages.0.downsample.norm.bias'] = torch.zeros(6)
    with pytest.raises(ValueError, match=r'layers\.0\.downsample\.norm\.bias has shape \(6,\)'):
        loaded(sifa_swin, weights, tmp_path)


@pytest.mark.parametrize('weight', [torch.tensor(1.0), torch.zeros(9, 0), 'text'], ids=repr)
def test_weights_of_odd_shapes_are_named(official, weight, tmp_path):
    weights = renamed(official, 'mmpretrain')
    for part in ('blocks.0.attn.w_msa.relative_position_bias_table', 'downsample.norm.bias'):
        weights['state_dict'][f'backbone.stages.0.{part}'] = weight
    with pytest.raises(ValueError, match=r'bias_table (has shape|is) .*norm\.bias (has shape|is) '):
        loaded(sifa_swin, weights, tmp_path)


def test_official_names_in_a_backbone_are_not_taken_for_mmpretrains(official, tmp_path):
    weights = {f'backbone.{name}': weight for name, weight in official.items()}
    message = r"in the official naming: .* is missing.* not used: \['backbone\.head\.bias', "
    with pytest.raises(ValueError, match=message):
        loaded(sifa_swin, weights, tmp_path)


@torch.no_grad()
def test_mmpretrains_patch_merging_keeps_its_results(tmp_path, official):
    """Mmpretrain stacks a patch's neighbours by nn.Unfold."""
    weights = renamed(official, 'mmpretrain')['state_dict']
    net = loaded(sifa_swin, weights, tmp_path)
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
    depths, heads = DEEPER['depths'], DEEPER['num_heads']
    if library == 'torchvision':
        module = import_or_skip('torchvision.models.swin_transformer')
        net = all_random(module.SwinTransformer([4, 4], 16, depths, heads, [7, 7]))
        expected = net.norm(net.features(frames)).permute(0, 3, 1, 2)
    elif library == 'timm':
        module = import_or_skip('timm.models.swin_transformer')
        net = all_random(module.SwinTransformer(embed_dim=16, depths=depths, num_heads=heads))
        expected = net.forward_features(frames).permute(0, 3, 1, 2)
    else:
        module = import_or_skip('mmpretrain.models')
        net = all_random(mmpretrains(module, dict(type='SwinTransformer', arch=DEEPER), 128))
        (expected,) = net.backbone(frames)
    ours = loaded(sifa_swin, net.state_dict(), tmp_path)
    clip = frames[:, :, None].expand(-1, -1, 8, -1, -1)
    for features in ours(clip).unbind(2):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('library', ['torchvision', 'timm', 'mmpretrain'])
@torch.no_grad()
def test_resnet_has_the_features_of_the_librarys_own(library, import_or_skip, tmp_path):
    frames = torch.rand(2, 3, 64, 96)
    if library == 'torchvision':
        module = import_or_skip('torchvision.models.resnet')
        net = all_random(module.ResNet(module.Bottleneck, [3, 4, 6, 3]))
        stem = net.maxpool(net.relu(net.bn1(net.conv1(frames))))
        expected = net.layer4(net.layer3(net.layer2(net.layer1(stem))))
    elif library == 'timm':
        module = import_or_skip('timm.models.resnet')
        net = all_random(module.ResNet(module.Bottleneck, [3, 4, 6, 3]))
        expected = net.forward_features(frames)
    else:
        module = import_or_skip('mmpretrain.models')
        net = all_random(mmpretrains(module, dict(type='ResNet', depth=50), 2048))
        (expected,) = net.backbone(frames)

    ours = loaded(sifa_r50, net.state_dict(), tmp_path)
    clip = frames[:, :, None].expand(-1, -1, 8, -1, -1)
    for features in ours(clip).unbind(2):
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
