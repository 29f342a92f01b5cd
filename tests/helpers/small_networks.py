"""Networks small enough to run many of in a test."""

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
