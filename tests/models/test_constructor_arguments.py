"""Every argument of the modules is checked when they are built, in a sentence."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from mmaction.registry import MODELS
from torch import nn

from mmsifa import models
from mmsifa.models import (
    SIFA,
    SIFAHead,
    SIFANet,
    SIFAPlugin,
    SIFATransformer,
    SIFAWithLayerNorm,
    TemporalConv,
    TemporalSequential,
    TemporalShift,
)

ARCH = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
TRUNK = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
BUILD = {
    'SIFA': lambda **options: SIFA(**dict(channels=8) | options),
    'SIFAWithLayerNorm': lambda **options: SIFAWithLayerNorm(8, **options),
    'SIFANet': lambda **options: SIFANet(
        **dict(stage_blocks=None if 'depth' in options else (1, 1, 1, 1), base_channels=8) | options
    ),
    'SIFATransformer': lambda **options: SIFATransformer(
        **dict(arch=ARCH, out_indices=(1,)) | options
    ),
    'SIFAPlugin': lambda **options: SIFAPlugin(TRUNK, **dict(after=['0']) | options),
    'SIFAHead': lambda **options: SIFAHead(**dict(num_classes=5, in_channels=8) | options),
    'TemporalConv': TemporalConv,
    'TemporalSequential': lambda **options: TemporalSequential(
        **dict(channels=8, parts=[]) | options
    ),
    'TemporalShift': lambda **options: TemporalShift(**dict(channels=8) | options),
}
NO_INTEGERS = (0, -1, True, 2.0, '3', None, math.nan)
NO_FLAGS = (None, 1, 'False')
NO_RATES = (-0.1, 1, 1.5, '0', None, math.nan, True)
SIFA_WRONG = {
    'kernel_size': (*NO_INTEGERS, 2),
    'dilation': (*NO_INTEGERS, 2**30),
    'softmax': NO_FLAGS,
    'deformable': NO_FLAGS,
    'motion_rescaling': NO_FLAGS,
    'tap_embedding': NO_FLAGS,
    'bidirectional': NO_FLAGS,
    'fuse': NO_FLAGS,
    'backend': ('tritom', 3, ['cpu'], True),
}
HEADS = (*NO_INTEGERS, 3)
IN_NETS = {name: values for name, values in SIFA_WRONG.items() if name != 'dilation'}
WRONG = {
    'SIFA': SIFA_WRONG | dict(channels=NO_INTEGERS, residual=NO_FLAGS, num_heads=HEADS),
    'SIFAWithLayerNorm': SIFA_WRONG | dict(num_heads=HEADS),
    'SIFANet': dict(
        backend=SIFA_WRONG['backend'],
        depth=(18, '50', None, [50], 50.5),
        pretrained=(3, True, ['a.pth']),
        init_cfg=(3, 'x', math.nan, {}, [3]),
        in_channels=NO_INTEGERS,
        num_stages=(0, 5, 4.0, None, True),
        stage_blocks=((1, 1), (0, 1, 1, 1), 3, '1111', (1, 1, 1, 1.0)),
        base_channels=NO_INTEGERS,
        tubelet_size=NO_INTEGERS,
        out_indices=((), (4,), (-1,), (3, 1), (3, 3), 3, '3', (1.0,), None, (True,)),
        strides=((1, 2), (1, 2, 0, 2), 2, None),
        stage_with_sifa=((True,), True, (0, 1, 1, 1)),
        kernel_sizes=((3, 3), (3, 3, -1, 3), (3, 3, 2, 3), 3, None),
        num_heads=NO_INTEGERS,
        between_frames=('SIFA', {}, True, None),
        dual_path=NO_FLAGS,
        frozen_stages=(-2, 5, True, 1.0, None),
        norm_cfg=(None, 'BN', {}),
        act_cfg=(None, 'ReLU'),
        norm_eval=NO_FLAGS,
        with_cp=NO_FLAGS,
        zero_init_residual=NO_FLAGS,
    ),
    'SIFATransformer': IN_NETS
    | dict(
        arch=(
            3,
            ARCH | dict(embed_dims=8.0),
            ARCH | dict(embed_dims=0),
            ARCH | dict(depths=(2, 0)),
            ARCH | dict(depths=2),
            ARCH | dict(num_heads=2),
            ARCH | dict(num_heads=(1, 2.0)),
            ARCH | dict(num_heads=(1, 3)),
        ),
        pretrained=(3, True),
        pretrained2d=NO_FLAGS,
        patch_size=(4, (4, 4), (4, 4, 0), '444', None, (4, 4, 4.0)),
        window_size=(7, (7, 7), (1, 7, 0), None),
        img_size=(*NO_INTEGERS, (224, 224)),
        qkv_bias=NO_FLAGS,
        qk_scale=(0, -1.0, '1', math.inf, True),
        mlp_ratio=(0, -1, '4', None),
        drop_rate=NO_RATES,
        attn_drop_rate=NO_RATES,
        drop_path_rate=NO_RATES,
        act_cfg=(None, {}),
        norm_cfg=(None, 'LN'),
        patch_norm=NO_FLAGS,
        num_sifa_heads=NO_INTEGERS,
        temporal_parts=(None, 'attention', ('attention',), ('a', 'b'), ([], {})),
        with_cp=NO_FLAGS,
        in_channels=NO_INTEGERS,
        out_indices=((), (2,), (1, 0), 1, None),
        out_after_downsample=NO_FLAGS,
        frozen_stages=(-2, 3, 1.0, None),
    ),
    'SIFAPlugin': dict(
        after=('0', [], [0], None),
        num_segments=(0, -1, True, 2.0, '3'),
        between_frames=('SIFA', {}, True, None),
        num_prefix_tokens=(-1, 1.0, None, True),
        in_channels=NO_INTEGERS,
        img_size=(0, (224,), (224, 0), '224', None, (1, 2, 3), 224.0),
    ),
    'SIFAHead': dict(
        num_classes=NO_INTEGERS,
        in_channels=NO_INTEGERS,
        dropout_ratio=NO_RATES,
        init_std=(-1, '1', None),
        average_clips=('probs', 1),
        multi_class=NO_FLAGS,
        loss_cls=(None, 3, {}, []),
    ),
    'TemporalConv': dict(channels=NO_INTEGERS),
    'TemporalSequential': dict(channels=NO_INTEGERS, parts=(['SIFA'], [None], [{}])),
    'TemporalShift': dict(channels=NO_INTEGERS, shift_div=(*NO_INTEGERS, 9)),
}


@pytest.mark.parametrize(
    ('module', 'name'), [(module, name) for module in WRONG for name in WRONG[module]]
)
def test_a_wrong_argument_is_named_when_a_module_is_built(module, name):
    said = {'num_sifa_heads': 'num_heads', 'kernel_sizes': 'kernel_sizes?'}.get(name, name)
    for value in WRONG[module][name]:
        part = value[2] if name == 'kernel_sizes' and value in ((3, 3, 2, 3),) else value
        came = (
            r'.*got .*' if isinstance(value, dict | tuple | list) else f'.*{re.escape(repr(part))}'
        )
        with pytest.raises(ValueError, match=rf'\b{said}\b{came}') as raised:
            BUILD[module](**{name: value})
        assert '\n' not in str(raised.value)


def test_all_arguments_are_tried():
    """But those that are passed on to others or are configs of other modules."""
    others = {'init_cfg', 'self', 'sifa_cfg', 'kwargs', 'backbone', 'loss_cls'}
    for module in WRONG:
        arguments = set(inspect.signature(getattr(models, module).__init__).parameters) - others
        if module == 'SIFAWithLayerNorm':
            arguments -= {'channels'}
        assert arguments <= set(WRONG[module]), module


def test_a_head_may_start_at_zero():
    head = SIFAHead(num_classes=2, in_channels=4, init_std=0)
    head.init_weights()
    assert not head.fc_cls.weight.any()


def test_integers_of_numpy_are_integers():
    three = np.int64(3)
    block = SIFA(np.int32(6), kernel_size=three, num_heads=three)
    assert block(torch.rand(1, 2, 6, 4, 4)).shape == (1, 2, 6, 4, 4)
    arch = dict(embed_dims=np.int64(8), depths=[1, 1], num_heads=[three - 2, three - 1])
    assert SIFATransformer(arch, out_indices=(1,)).num_heads == arch['num_heads']


def test_a_wrong_argument_is_named_in_a_config():
    with pytest.raises(ValueError, match=r'kernel_size must be a positive integer, got -1'):
        MODELS.build(dict(type='SIFA', channels=4, kernel_size=-1))
