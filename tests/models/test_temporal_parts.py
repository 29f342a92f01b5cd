"""What blocks do between frames: each part against its definition, and in both networks."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmaction.models.backbones import resnet_tsm
from mmaction.registry import MODELS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmsifa.apis import load_config
from mmsifa.apis.analysis import by_part, clip_of, count_multiply_adds
from mmsifa.apis.inspection import capture_attention
from mmsifa.models import (
    SIFA,
    SIFANet,
    SIFAPlugin,
    SIFATransformer,
    SIFAWithLayerNorm,
    TemporalConv,
    TemporalSequential,
    TemporalShift,
    sifa_block,
)

SMALL = dict(stage_blocks=(1, 2, 2, 2), base_channels=8)
ARCH = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
NOTHING = dict(type='torch.nn.Identity')


def channels_last(*shape, dtype=torch.float64):
    n, t, c, h, w = shape
    return torch.randn(n, t, h, w, c, dtype=dtype).permute(0, 1, 4, 2, 3)


def randomized(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def definition(x, kernel, taps, num_heads, softmax, motion_rescaling):
    """The block for frames (N, T, C, H, W) from the equations, by grid_sample tap by tap."""
    n, t, _, h, w = x.shape
    now, following = x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)
    clue = following * (1 + torch.sigmoid(following - now)) if motion_rescaling else following
    offset = F.conv2d(clue, kernel, padding=1)
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    samples = []
    for k in range(9):
        y = rows + k // 3 - 1 + offset[:, 2 * k]
        x_ = cols + k % 3 - 1 + offset[:, 2 * k + 1]
        grid = torch.stack([(2 * x_ + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
        samples.append(F.grid_sample(following, grid, align_corners=False))
    samples = torch.stack(samples).unflatten(2, (num_heads, -1))  # (K*K, N*T, G, C/G, H, W)
    weights = (now.unflatten(1, (num_heads, -1)) * samples).mean(dim=3, keepdim=True)
    if softmax:
        weights = weights.softmax(dim=0)
    embedding = taps.view(9, 1, num_heads, -1, 1, 1)
    attended = (weights * (samples + embedding)).sum(dim=0).flatten(1, 2)
    return torch.cat([(now + attended).unflatten(0, (n, t - 1)), x[:, -1:]], dim=1)


@pytest.mark.parametrize('motion_rescaling', [True, False], ids=['motion', 'features'])
@pytest.mark.parametrize(
    ('num_heads', 'softmax'), [(1, False), (2, False), (2, True)], ids=['1', '2', '2-softmax']
)
def test_tap_embedding_and_its_gradients_are_those_of_the_definition(
    num_heads, softmax, motion_rescaling
):
    options = dict(num_heads=num_heads, softmax=softmax, motion_rescaling=motion_rescaling)
    block = randomized(SIFA(4, tap_embedding=True, **options).double())
    x = channels_last(2, 3, 4, 5, 6).requires_grad_()
    inputs = [x, block.conv_offset.weight, block.tap_embedding]
    out, expected = block(x), definition(*inputs, num_heads, softmax, motion_rescaling)
    torch.testing.assert_close(out, expected)
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    d_out = torch.randn_like(out)
    gradients = [torch.autograd.grad(y, inputs, d_out) for y in (out, expected)]
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


def test_tap_embedding_starts_at_zero_and_learns():
    x = channels_last(2, 3, 4, 5, 6, dtype=torch.float32)
    block = SIFA(4, tap_embedding=True)
    assert block.tap_embedding.shape == (9, 4)
    assert torch.equal(block(x), SIFA(4)(x))
    nn.init.ones_(block.tap_embedding)
    block.init_weights()
    assert not block.tap_embedding.any()
    block(x).sum().backward()
    assert block.tap_embedding.grad.any()
    block(x[:, :1]).sum().backward()  # a clip of one frame
    assert 'tap_embedding' not in SIFA(4).state_dict()


@pytest.mark.parametrize(('dy', 'dx'), [(0, 1), (0, -1), (1, 0), (-1, 1)])
@torch.no_grad()
def test_the_tap_of_a_motion_appears(dy, dx):
    """A pattern moves by a pixel: its taps' vectors tell where to, its features do not."""
    block = SIFA(16, tap_embedding=True, softmax=True, residual=False)
    now = 20 * F.normalize(torch.randn(1, 1, 16, 8, 8), dim=2)  # unlike at every position
    x = torch.cat([now, now.roll((dy, dx), dims=(3, 4))], dim=1)
    plain = block(x)
    block.tap_embedding[:9, :9] = 100 * torch.eye(9)
    place = (block(x) - plain)[0, 0, :9, 1:-1, 1:-1]
    assert (place.argmax(dim=0) == (dy + 1) * 3 + dx + 1).all()
    torch.testing.assert_close(plain[0, 0, :, 1:-1, 1:-1], now[0, 0, :, 1:-1, 1:-1], atol=0.1,
                               rtol=0.1)  # fmt: skip


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_tap_embedding_in_bfloat16_and_autocast(dtype):
    block = randomized(SIFA(4, tap_embedding=True)).to(dtype)
    x = channels_last(1, 3, 4, 5, 6, dtype=dtype)
    exact = block.double()(x.double())
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.float32):
        out = block.to(dtype)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=0.1, atol=0.1)
    out.sum().backward()
    assert block.tap_embedding.grad.isfinite().all()


# Attention both ways


def value_at(features, y, x):
    """The bilinear value of features (C, H, W) at a place, with zeros outside."""
    corners = [
        (i, j) for i in (int(y // 1), int(y // 1) + 1) for j in (int(x // 1), int(x // 1) + 1)
    ]
    _, h, w = features.shape
    return (
        sum(
            (1 - abs(y - i)) * (1 - abs(x - j)) * features[:, i, j]
            for i, j in corners
            if 0 <= i < h and 0 <= j < w
        )
        + 0 * features[:, 0, 0]
    )


def both_ways(x, block):
    """The bidirectional block for frames (N, T, C, H, W), position by position."""
    n, t, c, h, w = x.shape
    out, share = (x.clone(), c // 4) if block.residual else (torch.zeros_like(x), c // 2)
    for clip, frame in itertools.product(range(n), range(t)):
        for i, step in enumerate((1, -1)):
            if not 0 <= frame + step < t:
                continue
            part = slice(i * share, (i + 1) * share)
            now, other = x[clip, frame, part], x[clip, frame + step, part]
            kernel = (block.conv_offset, block.conv_offset_behind)[i].weight
            saliency = other * (1 + torch.sigmoid(other - now))
            offset = F.conv2d(saliency[None], kernel, padding=1)[0].unflatten(0, (9, 2))
            for row, column in itertools.product(range(h), range(w)):
                samples = []
                for k, (dy, dx) in enumerate(offset[:, :, row, column]):
                    y, x_ = row + k // 3 - 1 + dy, column + k % 3 - 1 + dx
                    samples.append(value_at(other, y, x_))
                samples = torch.stack(samples).unflatten(1, (block.num_heads, -1))
                query = now[:, row, column].unflatten(0, (block.num_heads, -1))
                weights = (query * samples).mean(dim=2, keepdim=True)
                if block.softmax:
                    weights = weights.softmax(dim=0)
                out[clip, frame, part, row, column] = (weights * samples).sum(dim=0).flatten()
    return out


@pytest.mark.parametrize(
    'options',
    [dict(softmax=True), dict(num_heads=2), dict(residual=False, num_heads=2, softmax=True)],
    ids=str,
)
def test_bidirectional_blocks_are_their_definition(options):
    block = randomized(SIFA(8, bidirectional=True, **options).double())
    x = channels_last(1, 3, 8, 3, 4).requires_grad_()
    out = block(x)
    torch.testing.assert_close(out, both_ways(x, block))
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    inputs = x, block.conv_offset.weight, block.conv_offset_behind.weight
    assert torch.autograd.gradcheck(lambda *_: block(x), inputs, fast_mode=True)


@torch.no_grad()
def test_bidirectional_blocks_put_what_they_find_in_channels_of_its_own():
    x = channels_last(2, 4, 8, 5, 6)
    block = randomized(SIFA(8, bidirectional=True).double())
    assert torch.equal(block(x[:, :1]), x[:, :1])  # a clip of one frame
    for frame in range(4):
        other = x.clone()
        other[:, frame] += 1
        changed = (block(x) != block(other)).any(dim=0).flatten(2).any(dim=2)  # (T, C)
        expected = torch.zeros(4, 4, dtype=bool)  # ahead, behind, and half of the channels
        expected[frame] = True
        expected[max(frame - 1, 0), 0] = True  # the frame before finds it ahead
        expected[min(frame + 1, 3), 1] = True
        assert torch.equal(changed[:, ::2], expected)


@torch.no_grad()
def test_fresh_bidirectional_blocks_keep_the_size_of_features():
    """With a softmax; where frames are alike and even, features stay as they are."""
    block = SIFA(8, bidirectional=True, softmax=True)
    x = torch.randn(1, 1, 8, 1, 1).expand(2, 3, 8, 7, 7)
    torch.testing.assert_close(block(x)[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])
    x = torch.randn(2, 3, 8, 7, 7)
    assert block(x).abs().max() <= x.abs().max()


def test_bidirectional_blocks_name_channels_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match='num_heads=1 needs a multiple of 4 channels, got 6'):
        SIFA(6, bidirectional=True)
    with pytest.raises(ValueError, match='num_heads=4 needs a multiple of 16 channels, got 8'):
        SIFA(8, num_heads=4, bidirectional=True)
    with pytest.raises(ValueError, match='num_heads=1 needs a multiple of 2 channels, got 7'):
        SIFAWithLayerNorm(7, bidirectional=True)


def test_temporal_convolution_is_a_3d_one():
    part = randomized(TemporalConv(4).double())
    x = channels_last(2, 5, 4, 3, 6)
    conv = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), bias=False).double()
    conv.weight.data = part.conv.weight.detach().unsqueeze(4)
    expected = x + conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(part(x), expected)
    torch.testing.assert_close(part(x.contiguous()), expected)
    assert part(x).stride() == x.stride()


def test_temporal_shift_is_mmaction2s():
    x = channels_last(2, 5, 16, 3, 6)
    part = TemporalShift(16)
    shifted = resnet_tsm.TemporalShift.shift(x.flatten(0, 1).contiguous(), 5, shift_div=8)
    assert torch.equal(part(x).flatten(0, 1), shifted)
    assert torch.equal(part(x.contiguous()), part(x))
    assert part(x).stride() == x.stride()
    assert torch.equal(part(x)[:, :-1, :2], x[:, 1:, :2])  # an eighth from the next frame
    assert torch.equal(part(x)[:, 1:, 2:4], x[:, :-1, 2:4])  # an eighth from the frame before
    assert torch.equal(part(x)[:, :, 4:], x[:, :, 4:])
    with pytest.raises(ValueError, match='at most the number of channels, 4, got 8'):
        TemporalShift(4)


def test_parts_follow_each_other():
    x = channels_last(2, 5, 16, 3, 6)
    parts = [dict(type='SIFA', bidirectional=True), dict(type='TemporalConv')]
    both = randomized(TemporalSequential(16, parts).double())
    attention, conv = both
    assert isinstance(attention, SIFA)
    assert torch.equal(both(x), conv(attention(x)))
    assert not torch.allclose(both(x), attention(conv(x)))


PARTS = {
    'sifa': dict(type='SIFA', tap_embedding=True, residual=False),
    'temporal_attention': dict(
        type='SIFAWithLayerNorm', motion_rescaling=False, bidirectional=True
    ),
    'temporal_conv': dict(type='TemporalConv'),
    'temporal_shift': dict(type='TemporalShift', shift_div=4),
    'temporal_sequential': dict(
        type='TemporalSequential',
        parts=[dict(type='SIFA', bidirectional=True), dict(type='TemporalConv')],
    ),
    'identity': NOTHING,
}


@pytest.mark.parametrize(('name', 'part'), PARTS.items(), ids=PARTS)
def test_sifa_net_has_the_part_that_is_asked_for(name, part):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = MODELS.build(dict(type='SIFANet', between_frames=part, with_cp=with_cp, **SMALL))
        net.init_weights()
        randomized(net).train()
        sum(out.square().mean() for out in net(torch.randn(2, 3, 8, 32, 32))).backward()
        gradients.append({k: p.grad for k, p in net.named_parameters()})
        assert all(gradient is not None for gradient in gradients[-1].values())
    torch.testing.assert_close(*gradients)
    parts = {n: type(m).__name__ for n, m in net.named_modules() if n.endswith(f'.1.{name}')}
    assert set(parts.values()) == {part['type'].split('.')[-1]}
    assert list(parts) == [f'{s}.1.{name}' for s in ('layer2', 'layer3', 'layer4', 'layer4_dual')]


def test_fresh_parts_start_as_they_do_alone():
    for part in ('temporal_attention', 'temporal_conv', 'temporal_sequential', 'sifa'):
        net = SIFANet(**SMALL, between_frames=PARTS[part])
        net.init_weights()
        zeros = [p for n, p in net.named_parameters() if part in n and 'bias' not in n]
        assert zeros
        assert not any(parameter.any() for parameter in zeros)


@torch.no_grad()
def test_only_parts_between_frames_mix_frames():
    """With nothing between frames, a change of the first frame stays in it."""
    clip = torch.randn(1, 3, 8, 32, 32)
    other = clip.clone()
    other[:, :, :4] += 1  # the first tubelet
    # Even blocks summarize the whole clip, but not at first.
    for part, changed in ((NOTHING, 0), (dict(type='TemporalShift', shift_div=4), 1)):
        net = SIFANet(**SMALL, between_frames=part, dual_path=False, zero_init_residual=False)
        net.init_weights()
        net.eval()
        difference = (net(clip) - net(other)).abs().amax(dim=(0, 1, 3, 4))
        assert difference[0] > 1e-3
        assert (difference[1] > 1e-6) == changed


def test_defaults_are_sifa_with_its_names():
    names = [n for n in SIFANet(**SMALL).state_dict() if n.startswith('layer2.1.')]
    assert [n for n in names if 'conv1' not in n and 'conv2' not in n and 'conv3' not in n] == [
        'layer2.1.sifa.conv_offset.weight'
    ]
    same = SIFANet(**SMALL, between_frames=dict(type='SIFA'))
    assert list(same.state_dict()) == list(SIFANet(**SMALL).state_dict())


def test_options_reach_sifa_in_every_network():
    options = dict(motion_rescaling=False, tap_embedding=True, bidirectional=True, fuse=True)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    nets = [
        SIFANet(**SMALL, between_frames=dict(type='SIFA', **options)),
        SIFATransformer(ARCH, out_indices=(1,), **options),
        SIFAPlugin(trunk, ['0'], between_frames=dict(type='SIFA', **options)),
    ]
    for net in nets:
        blocks = [module for module in net.modules() if isinstance(module, SIFA)]
        assert blocks
        for block in blocks:
            assert not block.motion_rescaling
            assert block.tap_embedding is not None
            assert block.bidirectional
            assert block.fuse


def test_arguments_that_would_be_ignored_are_named():
    with pytest.raises(ValueError, match=r"place of SIFA, so \['kernel_size', 'num_heads'\] would"):
        SIFANet(between_frames=NOTHING, num_heads=2, kernel_sizes=(5, 5, 5, 5))


@pytest.mark.parametrize(
    ('parts', 'kinds'),
    [
        (('convolution', 'convolution'), [TemporalConv, TemporalConv]),
        (('attention', 'attention'), [SIFAWithLayerNorm, SIFAWithLayerNorm]),
        (('attention', None), [SIFAWithLayerNorm, nn.Identity]),
        ((None, None), [nn.Identity, nn.Identity]),
    ],
    ids=str,
)
def test_swin_has_the_parts_that_are_asked_for(parts, kinds):
    net = SIFATransformer(ARCH, temporal_parts=parts, out_indices=(1,))
    assert [type(block.temporal) for layer in net.layers for block in layer.blocks] == kinds * 2
    net.init_weights()
    clip = torch.rand(1, 3, 8, 64, 64)
    with torch.no_grad():
        fresh = net.eval()(clip)
    randomized(net)
    out = net(clip)
    assert out.shape == fresh.shape
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize('parts', [('attention',), ('attention', 'shift'), ('a', 'b', 'c')])
def test_wrong_parts_of_swin_are_named(parts):
    with pytest.raises(ValueError, match="two of 'attention', 'convolution' and None, got"):
        SIFATransformer(ARCH, out_indices=(1,), temporal_parts=parts)


@pytest.mark.slow
def test_multiply_adds_of_options_are_counted():
    config = load_config('sifa_tiny_motion')
    counts = []
    for options in ({}, dict(tap_embedding=True), dict(bidirectional=True)):
        config.model.backbone.between_frames = dict(type='SIFA', **options)
        model = MODELS.build(config.model).eval().to('meta')
        counts.append(by_part(count_multiply_adds(model, clip_of(config, side=64))))
    # Three pairs of frames: 32 channels at 8 x 8, 64 at 4 x 4; nine taps.
    own = 3 * 9 * (64 * 32 + 16 * 64)
    assert counts[1]['inter-frame attention'] == counts[0]['inter-frame attention'] + own
    assert counts[1] == counts[0] | {'inter-frame attention': counts[1]['inter-frame attention']}
    # Two quarters of the channels look, each with offsets of its own.
    attention, offsets = (counts[0][part] for part in ('inter-frame attention', 'offsets'))
    both = {'inter-frame attention': attention // 2, 'offsets': offsets // 2}
    assert counts[2] == counts[0] | both


@torch.no_grad()
def test_inspection_sees_the_weights_that_the_embedding_gets():
    block = randomized(SIFA(4, tap_embedding=True, motion_rescaling=False, residual=False))
    plain = SIFA(4, motion_rescaling=False, residual=False)
    plain.load_state_dict({'conv_offset.weight': block.conv_offset.weight})
    x = torch.randn(1, 3, 4, 5, 6)
    with capture_attention(block) as records:
        out = block(x)
    weights = torch.tensor(records[0].weights)[:, 0]  # (T - 1, K*K, H, W)
    embedded = torch.einsum('tkhw,kc->tchw', weights, block.tap_embedding)
    torch.testing.assert_close(out[0, :-1], plain(x)[0, :-1] + embedded)


@pytest.mark.slow
@torch.no_grad()
def test_parts_compile_into_one_graph():
    x = torch.randn(2, 3, 8, 5, 6)
    parts = SIFA(8, tap_embedding=True), SIFA(8, bidirectional=True), TemporalConv(8)
    for part in (*parts, TemporalShift(8)):
        compiled = torch.compile(randomized(part), fullgraph=True, backend='eager')
        torch.testing.assert_close(compiled(x), part(x))


# The arithmetic around the op, fused


@pytest.fixture
def uncompiled(monkeypatch):
    """Let blocks call what they would compile, and return what they called."""
    called = []

    def keep(function):
        called.append(function.__name__)
        return function

    monkeypatch.setattr(sifa_block, '_compiled', keep)
    return called


def errors(block, exact, x, d_out, autocast=False):
    """Return how far the output and the gradients of a block are from exact ones."""
    results = []
    for module, dtype in ((block, x.dtype), (exact, torch.float64)):
        inputs = x.detach().to(dtype).requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast and module is block):
            out = module(inputs)
        gradients = torch.autograd.grad(out, [inputs, *module.parameters()], d_out.to(dtype))
        results.append([y.double() for y in (out.detach(), *gradients)])
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    return torch.stack([(a - b).norm() / b.norm() for a, b in zip(*results, strict=True)])


F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(
    ('options', 'dtype', 'autocast'),
    [
        (dict(), F64, False),
        (dict(), F32, False),
        (dict(), BF16, False),
        (dict(), F32, True),
        (dict(), BF16, True),
        (dict(residual=False), F64, False),
        (dict(motion_rescaling=False), F64, False),
        (dict(deformable=False), F64, False),
        (dict(tap_embedding=True, softmax=True, num_heads=2), F64, False),
        (dict(bidirectional=True), F64, False),
        (dict(bidirectional=True, residual=False, tap_embedding=True), F64, False),
        (dict(bidirectional=True, motion_rescaling=False), F64, False),
    ],
    ids=str,
)
def test_fused_blocks_are_as_exact_as_others(uncompiled, options, dtype, autocast):
    own = F32 if autocast else dtype
    plain = randomized(SIFA(4, **options).to(own))
    fused = SIFA(4, **options, fuse=True).to(own)
    fused.load_state_dict(plain.state_dict())
    exact = copy.deepcopy(plain).double()
    x = channels_last(2, 4, 4, 5, 6, dtype=dtype)
    for features in (x, x.contiguous(), channels_last(2, 8, 4, 5, 6, dtype=dtype)[:, ::2]):
        d_out = torch.randn_like(features)
        limit = 1.5 * errors(plain, exact, features, d_out, autocast)
        limit += 1e-12 if dtype == F64 else 1e-6
        assert (errors(fused, exact, features, d_out, autocast) <= limit).all()
    saliency = ['_saliency'] if fused.deformable and fused.motion_rescaling else []
    ways = 1 + fused.bidirectional
    assert uncompiled == [*saliency * ways, *['_add_gradients'] * ways] * 3


def test_fused_blocks_can_be_used_as_others_can(uncompiled):
    x = channels_last(2, 3, 4, 5, 6, dtype=F32)
    fused = randomized(SIFA(4, fuse=True))
    plain = SIFA(4)
    plain.load_state_dict(fused.state_dict())
    expected = plain(x)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(fused)))(x), expected)
    with torch.inference_mode():
        assert torch.equal(fused(x), expected)
    assert torch.equal(fused(x).relu_(), expected.relu())  # in place
    gradients = []
    for block in (fused, plain):
        inputs = x.clone().requires_grad_()
        checkpoint(block, inputs, use_reentrant=False).square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients)
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fused(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match='differentiate twice'):
        gradient.sum().backward()


@torch.no_grad()
def test_nothing_is_compiled_where_others_record_or_nothing_is_computed(monkeypatch):
    fused, plain = SIFA(4, fuse=True), SIFA(4)
    x = torch.randn(2, 3, 4, 5, 6)
    with monkeypatch.context() as patch:
        patch.setattr(sifa_block, '_compiled', None)
        assert torch.equal(torch.jit.trace(fused, x, check_trace=False)(x), plain(x))
        counts = []
        for block in (fused, plain):
            with FlopCounterMode(display=False) as counter:
                block(x)
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 0
        for features in (x[:, :1], x[:0], x[:, :0], x.to('meta')):
            assert fused.to(features.device)(features).shape == features.shape


@pytest.mark.slow
@torch.no_grad()
def test_fused_blocks_are_traced_as_others(monkeypatch):
    monkeypatch.setattr(sifa_block, '_compiled', None)
    fused, plain, x = randomized(SIFA(4, fuse=True)), SIFA(4), torch.randn(2, 3, 4, 5, 6)
    plain.load_state_dict(fused.state_dict())
    for run in (
        torch.compile(fused, fullgraph=True, backend='aot_eager'),
        torch.export.export(fused, (x,)).module(),
    ):
        torch.testing.assert_close(run(x), plain(x))


def test_a_missing_compiler_is_named(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('No working C++ compiler found')

    x, compile_ = torch.randn(1, 2, 4, 5, 6), torch.compile
    advice = 'fuse=True could not compile: .*{}.* install what is missing, or set fuse=False'
    for broken, reason in (
        (partial(compile_, backend=fail), r'No working C\+\+ compiler found'),
        (partial(fail), 'No working'),  # as where Python is too new
    ):
        sifa_block._compiled.cache_clear()
        monkeypatch.setattr(torch, 'compile', broken)
        with pytest.raises(RuntimeError, match=advice.format(reason)) as raised:
            SIFA(4, fuse=True)(x)
        assert '\n' not in str(raised.value)
    sifa_block._compiled.cache_clear()


@pytest.mark.slow
def test_blocks_share_what_is_compiled(monkeypatch):
    """In training and in testing, of any size, in any thread; nothing of it is kept in a block."""
    counter = CompileCounterWithBackend('inductor')
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=counter))
    sifa_block._compiled.cache_clear()
    fused = SIFANet(**SMALL, dual_path=False, between_frames=dict(type='SIFA', fuse=True))
    plain = SIFANet(**SMALL, dual_path=False)
    plain.load_state_dict(randomized(fused).state_dict())
    clips = torch.randn(2, 3, 12, 32, 32)
    with torch.no_grad(), ThreadPoolExecutor(2) as threads:
        outs = [*threads.map(fused.eval(), [clips, clips]), plain.eval()(clips)]
    torch.testing.assert_close(outs[:2], outs[2:] * 2)
    forward = counter.frame_count  # each thread may have begun it
    for size in (2, 3):
        clips = torch.randn(size, 3, 16, 32, 48)
        gradients = []
        for net in (fused.train(), plain.train()):
            net.zero_grad()
            net(clips).square().mean().backward()
            gradients.append([parameter.grad for parameter in net.parameters()])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    assert counter.frame_count == forward + 1
    assert list(fused.state_dict()) == list(plain.state_dict())
    sifa_block._compiled.cache_clear()
