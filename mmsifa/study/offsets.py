"""Learned offsets against the known motion of drawn clips."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from numpy.typing import NDArray

from mmsifa.datasets import Scene, SyntheticClips
from mmsifa.inspection import LayerAttention, capture_attention

MEASURES = ('attended', 'no_motion', 'nearest', 'nearest_undeformed', 'outside')


class Places(NamedTuple):
    r"""Where the cells of a layer's maps move, and where the layer looks for them in frame t + 1.

    Attributes:
        true: (T - 1, 2, H, W), y and x in feature pixels: the mean motion of a cell's moving
            pixels, added to its place.
        attended: Of the same shape: the mean of the samples' places, weighted by the size of their
            attention weights, :math:`\sum_k |w_k| p_k / \sum_k |w_k|`, over all heads.
        counted: (T - 1, H, W): cells that lie mostly on moving objects and stay in the frame.
        pixels: Height and width of a cell in pixels of the clip, (2, 1, 1).
    """

    true: NDArray[np.floating]
    attended: NDArray[np.floating]
    counted: NDArray[np.bool_]
    pixels: NDArray[np.floating]

    def error(self) -> NDArray[np.floating]:
        """Return the distance of the attended from the true place in pixels, (T - 1, H, W)."""
        return np.linalg.norm(self.pixels * (self.attended - self.true), axis=1)


def compare_places(layer: LayerAttention, scene: Scene) -> Places:
    """Tell where things move and where a layer looks for them.

    Args:
        layer: The layer, with a feature frame for each frame of the clip.
        scene: The clip.

    Returns:
        The places of all cells.

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
    sides = np.array([height, width]).reshape(2, 1, 1)
    pixels = size / sides
    centres = np.indices((height, width)).astype(np.float32)
    cells = [_cells(*scene.flow(t), height, width) for t in range(num_frames - 1)]
    true = centres + np.stack([motion for motion, _ in cells]) / pixels
    inside = ((true > -0.5) & (true < sides - 0.5)).all(axis=1)
    share = np.abs(layer.weights).sum(axis=1)[:, :, None]  # (T - 1, K*K, 1, H, W)
    total = share.sum(axis=1)
    moved = (share * (layer.positions() - centres)).sum(axis=1)
    attended = centres + np.divide(moved, total, out=np.zeros_like(moved), where=total > 0)
    moving = np.stack([part for _, part in cells]) > 0.5
    return Places(true, attended, inside & moving, pixels)


def offset_errors(layer: LayerAttention, scene: Scene) -> dict[str, NDArray[np.floating]]:
    """Measure how far from the true place a layer looks, see :class:`Places`.

    Args:
        layer: The layer, with a feature frame for each frame of the clip.
        scene: The clip.

    Returns:
        Of each cell that counts, distances in pixels of the clip: ``attended``, of the place
        that is attended to; ``no_motion``, of the cell's own; ``nearest``, of the nearest sample;
        ``nearest_undeformed``, of the nearest one without offsets; and ``outside``, the share of
        its samples that lie outside of the frame.

    Raises:
        ValueError: If feature frames are made of several frames.
    """
    places = compare_places(layer, scene)

    def nearest(samples: NDArray) -> NDArray:
        distances = np.linalg.norm(places.pixels * (samples - places.true[:, None]), axis=2)
        return distances.min(axis=1)

    measured = (
        places.error(),
        nearest(np.indices(places.counted.shape[1:])[None, None]),
        nearest(layer.positions()),
        nearest(layer.grid()[None]),
        layer.outside().mean(axis=1),
    )
    return {name: values[places.counted] for name, values in zip(MEASURES, measured, strict=True)}


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


class Seen(NamedTuple):
    """A drawn clip, and what the SIFA layers of a recognizer did on it.

    Attributes:
        scene: The clip.
        displacement: Its displacement in pixels per frame.
        layers: The layers.
    """

    scene: Scene
    displacement: float
    layers: list[LayerAttention]


@torch.no_grad()
def watch(model: BaseModel, clips: SyntheticClips, num_clips: int = 96) -> list[Seen]:
    """Record what the SIFA layers of a recognizer do on drawn clips.

    Args:
        model: The recognizer.
        clips: Drawn clips, with the recognizer's pipeline.
        num_clips: How many of them, the first ones. Default: 96.

    Returns:
        What was seen, for each clip.

    Raises:
        ValueError: If the model has no SIFA layer.
    """
    model.eval()
    seen = []
    for idx in range(min(num_clips, len(clips))):
        with capture_attention(model) as layers:
            model.test_step(pseudo_collate([clips[idx]]))
        seen.append(Seen(clips.scene(idx), clips.get_data_info(idx)['displacement'], layers))
    return seen


def measure_offsets(seen: Sequence[Seen]) -> list[dict]:
    """Measure where SIFA layers look on drawn clips.

    Args:
        seen: What :func:`watch` returns.

    Returns:
        For each layer and displacement a dict: ``layer``, ``displacement``, the number of
        ``cells``, and the means of what :func:`offset_errors` returns.
    """
    errors: dict[tuple, list] = defaultdict(list)
    for scene, displacement, layers in seen:
        for layer in layers:
            errors[layer.name, displacement].append(offset_errors(layer, scene))
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
