"""SIFA-Transformer: layout, 2D weights, and what MMAction2's users expect of a backbone."""

import pytest
import torch
from mmaction.registry import MODELS
from small_networks import ARCH, randomized

from mmsifa.models import SIFATransformer
from mmsifa.models.temporal_parts import SIFAWithLayerNorm, TemporalConv


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


def test_temporal_parts_are_where_the_method_says():
    with torch.device('meta'):
        net = SIFATransformer('small')
        small = SIFATransformer('small', img_size=112)
    kinds = [[type(block.temporal) for block in layer.blocks] for layer in net.layers]
    assert kinds[:3] == [[SIFAWithLayerNorm, TemporalConv] * (d // 2) for d in (2, 2, 18)]
    assert kinds[3] == [SIFAWithLayerNorm] * 2
    assert {type(block.temporal) for block in small.layers[2].blocks} == {SIFAWithLayerNorm}


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


def test_fresh_temporal_parts_stay_zero_and_learn():
    net = SIFATransformer(ARCH)
    net.init_weights()
    net(torch.rand(1, 3, 8, 64, 64)).square().sum().backward()
    for layer in net.layers:
        for block in layer.blocks:
            part = block.temporal
            weight = part.norm.weight if isinstance(part, SIFAWithLayerNorm) else part.conv.weight
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


@pytest.mark.slow
def test_compiles_into_one_graph_and_is_registered():
    arch = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))  # all that it is made of
    net = MODELS.build(dict(type='SIFATransformer', arch=arch, out_indices=(1,))).eval()
    clip = torch.rand(1, 3, 8, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(clip), net(clip))
