"""Patches of training in mixed precision."""

import sys

import mmengine.optim
import numpy as np
import pytest
import torch
from mmaction.models.heads import BaseHead, OmniHead, RGBPoseHead, TSNHead
from mmaction.registry import OPTIM_WRAPPERS
from mmaction.structures import ActionDataSample

from mmsifa.commands import run_tool as run
from mmsifa.engine.patches import mixed_precision


def build_amp(**options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    cfg = dict(type='AmpOptimWrapper', optimizer=optimizer, **options)
    return OPTIM_WRAPPERS.build(cfg)


@pytest.mark.no_gpu
def test_amp_trains_in_bfloat16_on_the_cpu(tiny, tmp_path):
    run.run_tool('train', [str(tiny), '--amp', '--work-dir', str(tmp_path)])
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    history, _ = checkpoint['message_hub']['log_scalars']['train/loss'].data
    assert sys.modules['tiny_videos'].dtypes[-1] == torch.bfloat16
    assert len(history) == 4
    assert np.isfinite(history).all()


@pytest.mark.no_gpu
def test_amp_on_the_cpu_refuses_float16():
    with pytest.raises(ValueError, match='expects dtype bfloat16, got float16'):
        build_amp(dtype='float16')


@pytest.mark.no_gpu
def test_a_run_resumes_on_the_other_device():
    on_cpu_, on_gpu = build_amp(), build_amp()
    on_gpu.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)  # enabled, as on a GPU
    on_gpu.load_state_dict(on_cpu_.state_dict())
    assert on_gpu.loss_scaler.get_scale() == 8
    on_cpu_.load_state_dict(on_gpu.state_dict())
    assert on_cpu_.loss_scaler.state_dict() == {}


def test_amp_on_a_gpu_is_upstreams(monkeypatch):
    received = {}
    monkeypatch.setattr(mixed_precision, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(
        mmengine.optim.AmpOptimWrapper, '__init__', lambda self, **options: received.update(options)
    )
    mixed_precision.AmpOptimWrapper(loss_scale=8.0, dtype='float16', optimizer='SGD')
    assert received == dict(loss_scale=8.0, dtype='float16', use_fsdp=False, optimizer='SGD')


@pytest.mark.gpu
def test_a_run_of_the_cpu_resumes_on_a_gpu():
    wrapper = build_amp(loss_scale=8.0)
    wrapper.load_state_dict({**wrapper.state_dict(), 'loss_scaler': {}})
    assert wrapper.loss_scaler.get_scale() == 8


def samples():
    return [ActionDataSample().set_gt_label(label) for label in (0, 2)]


@pytest.mark.parametrize('head', [TSNHead, OmniHead, RGBPoseHead])
def test_heads_train_on_bfloat16_scores(head):
    torch.manual_seed(0)
    scores = torch.randn(2, 3).bfloat16().requires_grad_()
    if head is RGBPoseHead:
        losses = head(3, (4, 4)).loss_by_feat({'rgb': scores, 'pose': scores}, samples())
        loss = losses['rgb_loss_cls']
    else:
        classes = dict(image_classes=3, video_classes=3) if head is OmniHead else {'num_classes': 3}
        loss = head(in_channels=4, **classes).loss_by_feat(scores, samples())['loss_cls']
    expected = torch.nn.functional.cross_entropy(scores.float(), torch.tensor([0, 2]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad.dtype == torch.bfloat16


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_other_scores_are_left_alone(dtype):
    head = TSNHead(3, 4)
    head.loss_cls.forward = lambda scores, labels: scores
    scores = torch.zeros(2, 3, dtype=dtype)
    assert head.loss_by_feat(scores, samples())['loss_cls'] is scores


def test_heads_are_left_alone_where_they_work():
    before = BaseHead.loss_by_feat
    mixed_precision.patch_bfloat16_scores.__wrapped__()  # past the cache
    assert BaseHead.loss_by_feat is before
