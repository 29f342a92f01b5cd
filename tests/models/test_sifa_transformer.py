"""SIFA-Transformer: layout, 2D weights, and what MMAction2's users expect of a backbone."""

import pytest
import torch
from mmaction.models.backbones.swin import SwinTransformer3D
from mmaction.registry import MODELS

from mmsifa.models import SIFATransformer
from mmsifa.models.temporal_parts import TemporalAttention, TemporalConv

ARCH = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))


def randomized(net):
    """Give every parameter, also those that start at zero, a random value."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


@pytest.fixture(scope='module')
def swin():
    """A 2D Swin: MMAction2's, with windows and patches of one frame."""
    torch.manual_seed(0)
    net = randomized(SwinTransformer3D(ARCH, window_size=(1, 7, 7), patch_size=(1, 4, 4)))
    net.eval()  # returns None there
    return net


@pytest.fixture(scope='module')
def official_file(swin, tmp_path_factory):
    """The 2D Swin's weights in the official naming and layout, with its buffers and classifier."""
    weights = {k.replace('norm3.', 'norm.'): v.clone() for k, v in swin.state_dict().items()}
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    weights['head.weight'] = torch.zeros(1000, 128)
    path = tmp_path_factory.mktemp('swin') / 'swin.pth'
    torch.save({'model': weights}, path)
    return str(path)


@pytest.mark.parametrize('size', [(224, 224), (100, 76), (64, 64)], ids=['224', 'padded', 'small'])
@torch.no_grad()
def test_fresh_network_on_2d_weights_has_the_features_of_the_2d_swin(swin, official_file, size):
    net = SIFATransformer(ARCH, pretrained=official_file).eval()
    net.init_weights()
    frames = torch.rand(2, 3, 3, *size)
    clip = frames.repeat_interleave(4, dim=2)
    torch.testing.assert_close(net(clip), swin(frames), rtol=1e-4, atol=1e-4)
    moving = torch.rand(1, 3, 8, *size)
    mean = moving.unflatten(2, (2, 4)).mean(dim=3)
    torch.testing.assert_close(net(moving), swin(mean), rtol=1e-4, atol=1e-4)


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


def test_temporal_parts_are_where_the_method_says():
    with torch.device('meta'):
        net = SIFATransformer('small')
        small = SIFATransformer('small', img_size=112)
    kinds = [[type(block.temporal) for block in layer.blocks] for layer in net.layers]
    assert kinds[:3] == [[TemporalAttention, TemporalConv] * (d // 2) for d in (2, 2, 18)]
    assert kinds[3] == [TemporalAttention] * 2
    assert {type(block.temporal) for block in small.layers[2].blocks} == {TemporalAttention}


@pytest.mark.parametrize('window_size', [(1, 7, 7), (2, 7, 7)], ids=str)
@pytest.mark.parametrize('img_size', [112, 224, 256])
def test_blocks_that_shift_have_the_convolution_and_others_the_attention(img_size, window_size):
    net = SIFATransformer(ARCH, img_size=img_size, window_size=window_size)
    for layer in net.layers:
        for block in layer.blocks:
            assert any(block.shift_size) == isinstance(block.temporal, TemporalConv)


@pytest.mark.parametrize(('img_size', 'within_a_window'), [(224, True), (256, False)])
@torch.no_grad()
def test_frames_of_256_pixels_keep_the_windows_of_training(img_size, within_a_window):
    """Stage 4 has 8 x 8 positions then: what changes at one stays in its window of 7 x 7."""
    stage = randomized(SIFATransformer(ARCH, img_size=img_size)).eval().layers[3]
    for block in stage.blocks:
        block.temporal = torch.nn.Identity()
    x = torch.randn(1, 128, 2, 8, 8)
    other = x.clone()
    other[..., 0, 0] += 1
    changed = (stage(x) != stage(other)).any(dim=4)[0, 1]
    window = torch.zeros(8, 8, dtype=torch.bool)
    window[:7, :7] = True
    assert torch.equal(changed, window) == within_a_window


@torch.no_grad()
def test_block_is_attention_then_time_then_mlp():
    net = randomized(SIFATransformer(ARCH)).double().eval()
    x = torch.randn(2, 3, 14, 14, 16, dtype=torch.double)
    plain, shifted = net.layers[0].blocks
    mask = torch.zeros(3 * 4, 49, 49, dtype=torch.double)
    for block in (plain, shifted):
        y = x + block.forward_part1(x, mask)
        if block is plain:
            z = y.permute(0, 1, 4, 2, 3)
            attended = block.temporal.sifa(z)
            assert (attended[:, -1] == 0).all()
            block.temporal.sifa.residual = True
            torch.testing.assert_close(block.temporal.sifa(z) - z, attended)
            block.temporal.sifa.residual = False
            y = y + block.temporal.norm(attended.permute(0, 1, 3, 4, 2))
        else:
            weight = block.temporal.conv.weight.squeeze(3)
            line = y.permute(0, 2, 3, 4, 1).flatten(0, 2)  # (N*H*W, C, T)
            line = torch.nn.functional.conv1d(line, weight, padding=1)
            y = y + line.unflatten(0, (2, 14, 14)).permute(0, 4, 1, 2, 3)
        y = y + block.mlp(block.norm2(y))
        torch.testing.assert_close(block(x, mask), y)


def test_fused_attention_is_the_plain_one():
    net = randomized(SIFATransformer(ARCH)).double().eval()
    clip = torch.rand(2, 3, 8, 100, 76, dtype=torch.double)
    with torch.no_grad():
        fused = net(clip)
    torch.testing.assert_close(fused, net(clip))


def test_released_options_have_no_offsets_and_no_patch_norm():
    names = SIFATransformer(ARCH, deformable=False, patch_norm=False).state_dict()
    assert not any('conv_offset' in name or 'patch_embed.norm' in name for name in names)


def test_stages_are_returned_as_asked():
    net = SIFATransformer(ARCH, out_indices=(1, 3))
    shapes = [tuple(features.shape) for features in net(torch.rand(1, 3, 8, 64, 64))]
    assert shapes == [(1, 32, 2, 8, 8), (1, 128, 2, 2, 2)]


@pytest.mark.parametrize('shape', [(1, 3, 6, 64, 64), (1, 3, 64, 64), (1, 4, 8, 64, 64)])
def test_wrong_clips_are_named(shape):
    net = SIFATransformer(ARCH)
    with pytest.raises(ValueError, match=r'expects clips of shape .* multiple of 4 frames, got'):
        net(torch.rand(shape))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), "arch must be one of .* or a dict, got 'huge'"),
        (dict(arch=None), 'arch must be one of .* or a dict, got None'),
        (dict(arch=[16]), r'arch must be one of .* or a dict, got \[16\]'),
        (dict(arch=dict(embed_dims=16)), 'arch must have the keys'),
        (dict(arch=ARCH | dict(num_heads=(1,))), 'as many num_heads'),
        (
            dict(arch=ARCH | dict(num_heads=(1, 2, 5, 8))),
            r"must divide the stages' channels \[16, 32, 64, 128\], got \(1, 2, 5, 8\)",
        ),
        (dict(arch=ARCH | dict(num_heads=(1, 0, 4, 8))), r'must divide .* got \(1, 0, 4, 8\)'),
        (
            dict(arch=ARCH, pretrained='2d.pth', init_cfg=dict(type='Pretrained', checkpoint='3d')),
            'either pretrained or init_cfg, got both',
        ),
        (
            dict(
                arch=ARCH,
                pretrained='own.pth',
                pretrained2d=False,
                init_cfg=[dict(type='Pretrained', checkpoint='3d')],
            ),
            'either pretrained or init_cfg, got both',
        ),
        (dict(arch=ARCH, out_indices=(4,)), 'out_indices must be stages out of 0 to 3'),
        (dict(arch=ARCH, frozen_stages=5), 'frozen_stages must be -1 to 4'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SIFATransformer(**options)


def test_wrong_2d_weights_are_named(official_file, tmp_path):
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


def test_2d_weights_of_a_data_parallel_model_load(official_file, tmp_path):
    weights = torch.load(official_file)['model']
    torch.save({f'module.{k}': v for k, v in weights.items()}, tmp_path / 'parallel.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'parallel.pth'))
    net.init_weights()
    assert torch.equal(net.norm3.weight, weights['norm.weight'])


def test_own_weights_load_by_pretrained(tmp_path):
    other = randomized(SIFATransformer(ARCH))
    torch.save({'state_dict': other.state_dict()}, tmp_path / 'own.pth')
    net = SIFATransformer(ARCH, pretrained=str(tmp_path / 'own.pth'), pretrained2d=False)
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_fresh_temporal_parts_stay_zero_and_learn():
    net = SIFATransformer(ARCH)
    net.init_weights()
    net(torch.rand(1, 3, 8, 64, 64)).square().sum().backward()
    for layer in net.layers:
        for block in layer.blocks:
            part = block.temporal
            weight = part.norm.weight if isinstance(part, TemporalAttention) else part.conv.weight
            assert (weight == 0).all()
            assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_with_cp_has_the_same_gradients(frozen_stages):
    clip, gradients = torch.rand(1, 3, 8, 64, 64), []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = SIFATransformer(
            ARCH, with_cp=with_cp, frozen_stages=frozen_stages, drop_path_rate=0.0
        )
        assert randomized(net).train() is net
        net(clip).sum().backward()
        gradients.append({k: p.grad for k, p in net.named_parameters() if p.requires_grad})
        assert all(g is not None for g in gradients[-1].values())
    frozen = ('patch_embed', 'layers.0.', 'layers.1.')
    assert any(k.startswith(frozen) for k in gradients[0]) == (frozen_stages < 0)
    torch.testing.assert_close(*gradients)


def test_bfloat16_has_gradients():
    net = randomized(SIFATransformer(ARCH)).bfloat16()
    clip = torch.rand(1, 3, 8, 64, 64).bfloat16()
    features = net(clip)
    assert features.dtype == torch.bfloat16
    features.float().square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_compiles_into_one_graph_and_is_registered():
    net = MODELS.build(dict(type='SIFATransformer', arch=ARCH)).eval()
    clip = torch.rand(1, 3, 8, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(clip), net(clip))
