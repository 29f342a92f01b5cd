"""Whether the flow of a drawn scene leads to the same thing in its next frame."""

import cv2
import numpy as np


def smoothed(sprites):
    """Sprites whose colours change so slowly that sampling them between pixels is exact enough."""
    return np.stack(
        [np.dstack([cv2.GaussianBlur(s[..., :3], (0, 0), 4), s[..., 3]]) for s in sprites]
    )


def warped_back(values, flow):
    """What is found at the end of each pixel's motion, on the torus."""
    y, x = np.mgrid[: len(values), : len(values)].astype(np.float32)
    places = (x + flow[..., 0], y + flow[..., 1])
    return cv2.remap(
        values.astype(np.float32), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def motion_error(scene, t=0, flow=None, share=0.95):
    """Where nothing is occluded, a quantile of how much the colour changes on the way."""
    true_flow, moving = scene.flow(t)
    _, moving_next = scene.flow(t + 1)
    flow = true_flow if flow is None else flow
    frames = scene.render()
    change = np.abs(warped_back(frames[t + 1], flow) - frames[t]).max(axis=-1)
    inner = [
        cv2.erode(np.pad(m, 8, mode='wrap').astype(np.uint8), np.ones((3, 3)))[8:-8, 8:-8] > 0
        for m in (moving, ~moving)
    ]
    seen_next = warped_back(moving_next, true_flow)
    sprite, still = inner[0] & (seen_next == 1), inner[1] & (seen_next == 0)
    assert sprite.sum() > 50
    assert still.sum() > 200
    return max(np.quantile(change[sprite], share), np.quantile(change[still], share))
