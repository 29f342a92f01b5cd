"""Files of ``init_cfg=dict(type='Pretrained')`` fill a network, or what does not fit is named."""

import re

import pytest
import torch
from small_networks import ARCH, SMALL, randomized, recognizer, small_net

from mmsifa.models import SIFA, SIFANet, SIFATransformer


@pytest.mark.parametrize('content', [None, [1]], ids=['none', 'list'])
def test_checkpoints_without_a_dict_of_weights_are_named(content, tmp_path):
    path = str(tmp_path / 'broken.pth')
    torch.save({'state_dict': content}, path)
    message = rf'dict of weights as its state_dict, got {type(content).__name__}$'
    for source in (
        dict(pretrained=path),
        dict(init_cfg=dict(type='Pretrained', checkpoint=path)),
    ):
        with pytest.raises(ValueError, match=message):
            SIFANet(**SMALL, **source).init_weights()


def test_pretrained_init_cfg_loads_or_fails(tmp_path):
    model = recognizer()
    torch.nn.init.normal_(model.backbone.layer2[1].sifa.conv_offset.weight)
    path = str(tmp_path / 'recognizer.pth')
    torch.save({'state_dict': model.state_dict()}, path)

    net = SIFANet(**SMALL, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    net.init_weights()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    net = SIFANet(**SMALL, init_cfg=dict(type='Pretrained', checkpoint=path))
    with pytest.raises(
        ValueError, match=r"no weight in .*recognizer.pth belongs.*prefix='backbone.'"
    ):
        net.init_weights()
    # MMEngine knows no such key, and would load nothing.
    torch.save({'model': model.backbone.state_dict()}, path)
    with pytest.raises(ValueError, match=r"no weight in .* belongs.*got \['model'\]"):
        net.init_weights()
    weights = {f'module.{name}': weight for name, weight in model.backbone.state_dict().items()}
    torch.save(weights, path)
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), model.backbone.state_dict())
    with pytest.raises(ValueError, match='either pretrained or init_cfg, got both'):
        SIFANet(**SMALL, pretrained=path, init_cfg=dict(type='Pretrained', checkpoint=path))


def own_file(path, drop='', add=(), **options):
    """Save a network's weights, without those whose names match and with some more."""
    weights = small_net(**options).state_dict()
    weights = {name: w for name, w in weights.items() if not (drop and re.search(drop, name))}
    torch.save(weights | {name: torch.zeros(1) for name in add}, path)
    return dict(type='Pretrained', checkpoint=str(path)), weights


@pytest.mark.parametrize(
    ('file', 'net', 'message'),
    [
        (dict(drop=r'layer3\.1\.conv1'), {}, r'5 missing \(layer3\.1\.conv1\.conv\.weight, '),
        (dict(drop=r'layer2.*sifa'), {}, r'1 missing \(layer2\.1\.sifa\.conv_offset\.weight\)'),
        (
            dict(drop=r'layer2.*fc1'),
            {},
            r'2 missing \(layer2\.0\.fc1\.weight, layer2\.0\.fc1\.bias',
        ),
        (dict(stage_blocks=(1, 2, 3, 2)), {}, r'22 without a place \(layer3\.2\.'),
        (
            {},
            dict(between_frames=dict(type='torch.nn.Identity')),
            r'4 without a place \(layer2\.1\.s',
        ),
        (dict(base_channels=16), {}, 'size mismatch for conv1.conv.weight: .* more'),
        (dict(dual_path=False), {}, r'missing \(layer4_dual\.0\.'),
        (dict(add=['neck.weight']), {}, r'1 without a place \(neck\.weight\)'),
    ],
    ids=['block', 'sifa', 'context', 'deeper', 'more-parts', 'wider', 'single-path', 'neck'],
)
@pytest.mark.parametrize('as_list', [False, True], ids=['dict', 'list'])
def test_pretrained_init_cfg_names_what_does_not_fit(file, net, message, as_list, tmp_path):
    init_cfg, _ = own_file(tmp_path / 'own.pth', **file)
    init_cfg = [dict(type='Kaiming', layer='Conv2d'), init_cfg] if as_list else init_cfg
    with pytest.raises(ValueError, match=f'not hold the weights of this SIFANet: .*{message}'):
        SIFANet(**SMALL, **net, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    ('file', 'net'),
    [
        (dict(drop='sifa'), {}),
        (dict(drop='sifa|fc1|fc2|num_batches_tracked'), {}),
        (dict(add=['fc.weight', 'cls_head.fc_cls.bias']), {}),
        ({}, dict(dual_path=False)),
        ({}, dict(num_stages=2, dual_path=False, out_indices=(1,))),
        (dict(drop='sifa'), dict(stage_with_sifa=(False, True, False, False))),
    ],
    ids=['no-sifa', 'plain-trunk', 'classifier', 'single-path', 'fewer-stages', 'less-context'],
)
def test_pretrained_init_cfg_takes_trunks_and_larger_networks(file, net, tmp_path):
    init_cfg, weights = own_file(tmp_path / 'own.pth', **file)
    net = SIFANet(**SMALL, **net, init_cfg=init_cfg)
    net.init_weights()
    for name, tensor in net.state_dict().items():
        assert name not in weights or torch.equal(tensor, weights[name]), name
    assert torch.equal(net.layer2[1].conv2.conv.weight, weights['layer2.1.conv2.conv.weight'])


def test_pretrained_init_cfg_of_a_block_alone_is_checked(tmp_path):
    torch.save({'other.weight': torch.zeros(1)}, tmp_path / 'block.pth')
    with pytest.raises(ValueError, match=r'no weight in .* belongs'):
        SIFA(
            4, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'block.pth'))
        ).init_weights()


@pytest.mark.parametrize(
    ('drop', 'message'),
    [
        ('layers.2.blocks.1.mlp', r'4 missing \(layers\.2\.blocks\.1\.mlp'),
        ('layers.2.blocks.1.temporal', r'1 missing \(layers\.2\.blocks\.1\.temporal\.conv\.weight'),
        ('.temporal.', None),
    ],
    ids=['block', 'temporal', 'trunk'],
)
def test_own_weights_fill_all_but_what_a_trunk_lacks(drop, message, tmp_path):
    other = randomized(SIFATransformer(ARCH))
    weights = {name: w for name, w in other.state_dict().items() if drop not in name}
    torch.save(weights, tmp_path / 'own.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'own.pth'), pretrained2d=False)
    if message:
        with pytest.raises(ValueError, match=f'weights of this SIFATransformer: {message}'):
            net.init_weights()
    else:
        net.init_weights()
        assert torch.equal(
            net.layers[3].blocks[1].mlp.fc2.bias, weights['layers.3.blocks.1.mlp.fc2.bias']
        )


def test_own_weights_load_by_pretrained(tmp_path):
    other = randomized(SIFATransformer(ARCH))
    torch.save({'state_dict': other.state_dict()}, tmp_path / 'own.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'own.pth'), pretrained2d=False)
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), other.state_dict())
