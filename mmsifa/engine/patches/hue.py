"""Patches of MMAction2's color jitter."""

import functools

import numpy as np


def _adjust_hue(img, factor):
    import cv2

    hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0].astype(np.int16) + int(factor * 255)
    hsv[..., 0] = hue % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


@functools.cache
def patch_hue_overflow():
    """ColorJitter fails under numpy 2 (mmaction/datasets/transforms/processing.py:979).

    A negative shift does not fit its uint8 hue; pytorch/vision#8536 is the same error elsewhere.
    """
    from mmaction.datasets.transforms.processing import ColorJitter

    try:
        ColorJitter.adjust_hue(np.zeros((1, 1, 3), np.uint8), -0.1)
    except OverflowError:
        ColorJitter.adjust_hue = staticmethod(_adjust_hue)
