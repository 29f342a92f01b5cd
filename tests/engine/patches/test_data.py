"""Patches of MMAction2's color jitter and of MMEngine's loaders."""

import cv2
import numpy as np
import pytest
from mmaction.datasets.transforms.processing import ColorJitter
from mmengine.config import ConfigDict
from mmengine.runner import FlexibleRunner, Runner

from mmsifa.engine.patches import data


@pytest.mark.parametrize(('factor', 'hue'), [(-0.1, 155), (0, 0), (0.1, 25), (-0.5, 53)])
def test_hue_turns_both_ways(factor, hue):
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    turned = ColorJitter.adjust_hue(red, factor).astype(np.uint8)
    assert abs(int(cv2.cvtColor(turned, cv2.COLOR_RGB2HSV)[0, 0, 0]) - hue) <= 1


@pytest.mark.slow
def test_hue_is_as_before_where_it_worked(unpatched):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for factor, expected in zip((0, 0.1, 0.25), np.load(unpatched / 'hue.npy'), strict=True):
        np.testing.assert_array_equal(ColorJitter.adjust_hue(image, factor), expected)


def test_hue_is_left_alone_where_it_works():
    before = ColorJitter.adjust_hue
    data.patch_hue_overflow.__wrapped__()  # past the cache
    assert ColorJitter.adjust_hue is before


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
def test_a_loader_without_workers_leaves_out_what_is_for_these(runner):
    config = ConfigDict(
        dataset=list(range(5)), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
        persistent_workers=True, prefetch_factor=3, timeout=9, multiprocessing_context='spawn',
    )  # fmt: skip
    assert list(runner.build_dataloader(dict(config, num_workers=0))) == [[0, 1], [2, 3], [4]]
    loader = runner.build_dataloader(dict(config, num_workers=1))
    assert (loader.persistent_workers, loader.prefetch_factor, loader.timeout) == (True, 3, 9)
