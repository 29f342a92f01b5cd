"""Learned offsets against the known motion of drawn clips."""

from collections import defaultdict

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from numpy.typing import NDArray

from mmsifa.datasets import Scene, SyntheticClips
from mmsifa.inspection import LayerAttention, capture_attention

MEASURES = ('attended', 'no_motion', 'nearest', 'nearest_undeformed')


def offset_errors(layer: LayerAttention, scene: Scene) -> dict[str, NDArray[np.floating]]:
    r"""Measure how far from the true place a layer looks.

    It looks at those cells of the feature map that lie mostly on moving objects and whose place in
    the next frame is inside of it. The true motion of a cell is the mean of its moving pixels. With
    the attention weights :math:`w_k`, over all heads, and the samples' displacements :math:`d_k`,
    offsets included, the layer looks at

    .. math:: d = \sum_k |w_k| d_k \,/\, \sum_k |w_k|

    Args:
        layer: The layer, with a feature frame for each frame of the clip.
        scene: The clip.

    Returns:
        Distances in pixels of the clip, one for each cell: ``attended``, the end-point error of
        :math:`d`; ``no_motion``, that of zero; ``nearest``, of the nearest sample to the true
        place; ``nearest_undeformed``, of the nearest one without offsets.

    Raises:
        ValueError: If feature frames are made of several frames.
    """
    num_frames, size = len(scene.poses), len(scene.background)
    if len(layer.frames) != num_frames:
        raise ValueError(
            f'expected a feature frame for each of {num_frames} frames, got {len(layer.frames)} in '
            f'{layer.name}: take tubelets of one frame'
        )
    height, width = layer.offset.shape[-2:]
    pixels = np.array([size / height, size / width]).reshape(2, 1, 1)  # of a cell
    centres = np.indices((height, width))
    steps = layer.grid() - centres  # (K*K, 2, H, W)
    errors: dict[str, list] = defaultdict(list)
    for t, (offset, weights) in enumerate(zip(layer.offset, layer.weights, strict=True)):
        motion, moving = _cells(*scene.flow(t), height, width)
        then = centres + motion / pixels
        inside = ((then > -0.5) & (then < np.array([height, width]).reshape(2, 1, 1) - 0.5)).all(0)
        chosen = (moving > 0.5) & inside
        share = np.abs(weights).sum(axis=0)[:, None]  # (K*K, 1, H, W)
        total = share.sum(axis=0)
        attended = (share * (steps + offset)).sum(axis=0)
        attended = np.divide(attended, total, out=np.zeros_like(attended), where=total > 0)
        to_samples = np.linalg.norm(pixels * (steps + offset) - motion, axis=1)
        to_grid = np.linalg.norm(pixels * steps - motion, axis=1)
        distances = (
            np.linalg.norm(pixels * attended - motion, axis=0),
            np.linalg.norm(motion, axis=0),
            to_samples.min(axis=0),
            to_grid.min(axis=0),
        )
        for name, distance in zip(MEASURES, distances, strict=True):
            errors[name].append(distance[chosen])
    return {name: np.concatenate(parts) for name, parts in errors.items()}


def _cells(
    flow: np.ndarray, moving: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean motion (y, x) of the moving pixels of each cell, and their share of the cell."""
    size = len(flow)
    blocks = (height, size // height, width, size // width)
    weight = moving.reshape(blocks)
    total = (flow * moving[..., None]).reshape(*blocks, 2).sum(axis=(1, 3))
    motion = total / np.maximum(weight.sum(axis=(1, 3)), 1)[..., None]
    return motion[..., ::-1].transpose(2, 0, 1), weight.mean(axis=(1, 3))


@torch.no_grad()
def measure_offsets(model: BaseModel, clips: SyntheticClips, num_clips: int = 96) -> list[dict]:
    """Measure where the SIFA layers of a recognizer look on drawn clips.

    Args:
        model: The recognizer.
        clips: Drawn clips, with the recognizer's pipeline.
        num_clips: How many of them, the first ones. Default: 96.

    Returns:
        For each layer and displacement a dict: ``layer``, ``displacement``, the number of
        ``cells``, and the means of what :func:`offset_errors` returns.

    Raises:
        ValueError: If the model has no SIFA layer.
    """
    model.eval()
    errors: dict[tuple, list] = defaultdict(list)
    for idx in range(min(num_clips, len(clips))):
        with capture_attention(model) as layers:
            model.test_step(pseudo_collate([clips[idx]]))
        displacement = clips.get_data_info(idx)['displacement']
        for layer in layers:
            errors[layer.name, displacement].append(offset_errors(layer, clips.scene(idx)))
    records = []
    for (layer_name, displacement), parts in sorted(errors.items()):
        means = {m: np.concatenate([part[m] for part in parts]) for m in MEASURES}
        cells = len(means['attended'])
        if cells:
            records.append(
                dict(layer=layer_name, displacement=displacement, cells=cells)
                | {name: float(values.mean()) for name, values in means.items()}
            )
    return records
