"""Weights of 2D networks fill ours, and those that do not fit are named."""

import re

import pytest
import torch
from mmaction.models.backbones.swin import SwinTransformer3D
from small_networks import ARCH, SMALL, torchvision_weights

from mmsifa.models import SIFANet, SIFATransformer


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


def test_2d_weights_of_a_data_parallel_model_load(weights_file, tmp_path):
    weights = torch.load(weights_file)
    torch.save({f'module.{k}': v for k, v in weights.items()}, tmp_path / 'parallel.pth')
    net = SIFANet(pretrained=str(tmp_path / 'parallel.pth'))
    net.init_weights()
    assert torch.equal(net.layer4[1].conv2.conv.weight, weights['layer4.1.conv2.weight'])


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
