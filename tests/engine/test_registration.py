"""What is reachable through the registries of MMEngine and MMAction2."""

import torch
from mmaction.registry import MODELS
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import FUNCTIONS

from mmsifa import models
from mmsifa.models import SIFA
from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights


def test_the_op_is_among_mmengines_functions():
    assert FUNCTIONS.get('inter_frame_attention') is inter_frame_attention
    assert FUNCTIONS.get('inter_frame_attention_weights') is inter_frame_attention_weights
    frames, offset = torch.rand(1, 3, 4, 5, 5), torch.zeros(1, 2, 18, 5, 5)
    args = dict(query=frames[:, :-1], value=frames[:, 1:], offset=offset)
    out = FUNCTIONS.build(dict(type='inter_frame_attention', _scope_='mmengine', **args))
    assert torch.equal(out, inter_frame_attention(**args))


def test_modules_are_among_mmaction2s_models():
    for name in set(models.__all__) - {'add_sifa', 'ClipNetwork'}:
        assert MODELS.get(name) is getattr(models, name)


def test_mmengine_counts_the_multiply_adds_of_the_op():
    n, t, c, h, w = 2, 3, 8, 5, 6
    block = SIFA(channels=8, deformable=False)
    info = get_model_complexity_info(block, inputs=(torch.rand(n, t + 1, c, h, w),))
    assert info['flops'] == n * t * h * w * 9 * c * (4 + 1 + 1)
