"""Networks small enough to run many of in a test, and weights of a 2D ResNet."""

import torch
from mmaction.registry import MODELS

from mmsifa.models import SIFANet

SMALL = dict(stage_blocks=(1, 2, 2, 2), base_channels=8)
ARCH = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))


def small_net(**kwargs) -> SIFANet:
    """A small network in which every path has an effect: nothing is zero that starts at zero."""
    net = SIFANet(**{**SMALL, **kwargs})
    net.init_weights()
    for name, parameter in net.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
        assert parameter.any(), name
    return net


def recognizer(backbone=SMALL, head=None, **kwargs):
    head = head or dict(type='SIFAHead', num_classes=5, in_channels=256, average_clips='prob')
    cfg = dict(
        type='Recognizer3D',
        backbone=dict(type='SIFANet', **backbone),
        cls_head=head,
        data_preprocessor=dict(
            type='ActionDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, format_shape='NCTHW'
        ),
        **kwargs,
    )
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def randomized(net):
    """Give every parameter, also those that start at zero, a random value."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def torchvision_weights(blocks=(3, 4, 6, 3), width=64) -> dict[str, torch.Tensor]:
    """Random weights of a 2D ResNet in torchvision's naming, as its documentation lists them."""
    weights = {}

    def conv(name, outs, ins, size):
        weights[f'{name}.weight'] = (
            torch.randn(outs, ins, size, size) * (outs * size * size) ** -0.5
        )

    def norm(name, channels):
        weights[f'{name}.weight'] = torch.rand(channels) + 0.5
        weights[f'{name}.bias'] = torch.randn(channels) * 0.1
        weights[f'{name}.running_mean'] = torch.randn(channels) * 0.1
        weights[f'{name}.running_var'] = torch.rand(channels) + 0.5
        weights[f'{name}.num_batches_tracked'] = torch.tensor(7)

    conv('conv1', width, 3, 7)
    norm('bn1', width)
    ins = width
    for i, count in enumerate(blocks):
        planes = width * 2**i
        for j in range(count):
            block = f'layer{i + 1}.{j}'
            for k, sizes in enumerate(
                [(planes, ins, 1), (planes, planes, 3), (4 * planes, planes, 1)], start=1
            ):
                conv(f'{block}.conv{k}', *sizes)
                norm(f'{block}.bn{k}', sizes[0])
            if j == 0:
                conv(f'{block}.downsample.0', 4 * planes, ins, 1)
                norm(f'{block}.downsample.1', 4 * planes)
            ins = 4 * planes
    weights['fc.weight'], weights['fc.bias'] = torch.randn(10, ins), torch.randn(10)
    return weights
