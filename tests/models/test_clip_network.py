"""SIFA added to any network of PyTorch: what it computes there, and what it leaves as it is."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmsifa.models import SIFA, add_sifa


def classifier():
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, stride=4),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def randomize(net):
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize('zero_init', [True, False])
@torch.no_grad()
def test_frames_attend_to_the_next_after_the_named_submodule(zero_init):
    net = randomize(add_sifa(classifier(), ['1'], zero_init=zero_init, num_heads=2))
    clips = torch.randn(2, 3, 4, 20, 28)
    frames = clips.transpose(1, 2).flatten(0, 1)
    part = net.temporal['1'].part
    block = SIFA(6, residual=not zero_init, num_heads=2)
    block.load_state_dict((part.sifa if zero_init else part).state_dict())

    maps = net.backbone[:2](frames).unflatten(0, (2, 4))
    attended = block(maps)
    if zero_init:
        attended = maps + part.norm(attended.movedim(2, -1)).movedim(-1, 2)
    expected = net.backbone[2:](attended.flatten(0, 1))
    assert expected.shape == (8, 5)
    torch.testing.assert_close(net(clips), expected)
    assert not torch.allclose(net.backbone(frames), expected)


@pytest.mark.parametrize('zero_init', [True, False])
def test_the_residual_is_not_an_option(zero_init):
    with pytest.raises(TypeError, match='residual'):
        add_sifa(classifier(), ['1'], zero_init=zero_init, residual=False)


@torch.no_grad()
def test_frames_are_clips_of_clip_len():
    net = randomize(add_sifa(classifier(), ['0', '1'], clip_len=4))
    clips = torch.randn(2, 3, 4, 20, 28)
    torch.testing.assert_close(net(clips.transpose(1, 2).flatten(0, 1)), net(clips))


@torch.no_grad()
def test_a_fresh_network_computes_what_it_did_and_keeps_its_names():
    network = classifier()
    names = set(network.state_dict())
    clips = torch.randn(2, 3, 4, 20, 28)
    expected = network(clips.transpose(1, 2).flatten(0, 1))
    net = add_sifa(network, ['0', '1'])
    torch.testing.assert_close(net(clips), expected)
    assert set(network.state_dict()) == names
    assert {n.removeprefix('backbone.') for n in net.state_dict() if 'temporal' not in n} == names


@torch.no_grad()
def test_threads_with_clips_of_different_lengths_share_a_network():
    net = randomize(add_sifa(classifier(), ['1']))
    started = threading.Barrier(2)
    clips = [torch.rand(2, 3, 4, 20, 28), torch.rand(4, 3, 2, 28, 20)]
    expected = [net(x) for x in clips]

    def wait_for_the_other(*args):
        started.wait(20)

    net.backbone[0].register_forward_hook(wait_for_the_other)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(net, clips))
    torch.testing.assert_close(together, expected)


class Recomputed(nn.Module):
    """Convolutions whose features are computed again in the backward pass, returned in a dict."""

    def __init__(self, with_cp):
        super().__init__()
        self.with_cp = with_cp
        self.embed, self.first, self.second = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))

    def compute(self, x):
        return self.second(self.first(x).relu())

    def forward(self, x):
        x = self.embed(x)
        if self.with_cp and torch.is_grad_enabled():
            return {'maps': [checkpoint(self.compute, x, use_reentrant=False), None]}
        return {'maps': [self.compute(x), None]}


def test_clips_of_two_lengths_may_wait_for_a_backward_pass_that_computes_again():
    clips, gradients = [torch.rand(2, 3, t, 8, 12) for t in (4, 2)], []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = randomize(add_sifa(Recomputed(with_cp), ['first']))
        sum(net(x)['maps'][0].square().sum() for x in clips).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    assert gradients[0]['temporal.first.part.sifa.conv_offset.weight'].any()
    torch.testing.assert_close(*gradients)


def test_a_copy_is_independent():
    net = randomize(add_sifa(classifier(), ['1']))
    clips = torch.randn(1, 3, 3, 20, 28)
    other, expected = copy.deepcopy(net), net(clips)
    torch.testing.assert_close(other(clips), expected)
    randomize(net)
    torch.testing.assert_close(other(clips), expected)


@pytest.mark.slow
def test_compiles_into_one_graph():
    net = randomize(add_sifa(classifier(), ['1'])).eval()
    clips = torch.rand(1, 3, 3, 20, 28)
    with torch.no_grad():
        compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(clips), net(clips))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(after=['7']), r"no submodule of the network is named '7'\. Feature maps come from"),
        (dict(after=['4']), r'4 returns no feature map but a tensor of shape \(2, 5\)'),
        (dict(after=['1'], clip_len=0), 'clip_len must be a positive integer, got 0'),
        (dict(after=['1'], zero_init=1), 'zero_init must be True or False, got 1'),
        (dict(after=['1'], img_size='224'), 'img_size must be 2 positive integers'),
        (dict(after=['1'], in_channels=4), 'failed in a trial run with 2 frames of 224 x 256'),
        (dict(after=['1'], num_heads=4), 'num_heads must divide 6 channels, got 4'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        add_sifa(classifier(), **options)


def test_wrong_clips_are_named():
    net = add_sifa(classifier(), ['1'], clip_len=4)
    message = r'expects clips \(N, 3, T, H, W\), or .* with clip_len=T, got \(5, 3, 20, 28\) with'
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(5, 3, 20, 28))
