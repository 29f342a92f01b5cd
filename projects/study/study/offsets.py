"""Learned offsets against the known motion of drawn clips."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmsifa.apis.inspection import LayerAttention, capture_attention
from mmsifa.apis.inspection.capture import sifa_layers
from mmsifa.datasets import Scene
from study.synthetic import SyntheticClips

MEASURES = ('attended', 'no_motion', 'best_linear', 'nearest', 'nearest_undeformed', 'outside')


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
    true, counted = true_places(scene, height, width)
    pixels = size / np.array([height, width]).reshape(2, 1, 1)
    centres = np.indices((height, width)).astype(np.float32)
    share = np.abs(layer.weights).sum(axis=1)[:, :, None]  # (T - 1, K*K, 1, H, W)
    total = share.sum(axis=1)
    moved = (share * (layer.positions() - centres)).sum(axis=1)
    attended = centres + np.divide(moved, total, out=np.zeros_like(moved), where=total > 0)
    return Places(true, attended, counted, pixels)


def true_places(
    scene: Scene, height: int, width: int
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Tell where the cells of a map move, see :class:`Places`.

    Args:
        scene: The clip.
        height: Height of the map in cells.
        width: Its width.

    Returns:
        ``true`` and ``counted``.
    """
    sides = np.array([height, width]).reshape(2, 1, 1)
    cells = [_cells(*scene.flow(t), height, width) for t in range(len(scene.poses) - 1)]
    motion, moving = (np.stack(part) for part in zip(*cells, strict=True))
    true = np.indices((height, width)) + motion / (len(scene.background) / sides)
    inside = ((true > -0.5) & (true < sides - 0.5)).all(axis=1)
    return true, inside & (moving > 0.5)


def offset_errors(
    layer: LayerAttention, scene: Scene, linear: NDArray[np.floating] | None = None
) -> dict[str, NDArray[np.floating]]:
    """Measure how far from the true place a layer looks, see :class:`Places`.

    Args:
        layer: The layer, with a feature frame for each frame of the clip.
        scene: The clip.
        linear: Another prediction of the motion, (T - 1, 2, H, W), y and x in feature pixels.
            Default: None.

    Returns:
        Of each cell that counts, distances in pixels of the clip: ``attended``, of the place
        that is attended to; ``no_motion``, of the cell's own; ``best_linear``, of what ``linear``
        says, if there is one; ``nearest``, of the nearest sample;
        ``nearest_undeformed``, of the nearest one without offsets; and ``outside``, the share of
        its samples that lie outside of the frame.

    Raises:
        ValueError: If feature frames are made of several frames.
    """
    places = compare_places(layer, scene)

    def nearest(samples: NDArray) -> NDArray:
        distances = np.linalg.norm(places.pixels * (samples - places.true[:, None]), axis=2)
        return distances.min(axis=1)

    centres = np.indices(places.counted.shape[1:])[None, None]
    measured = dict(
        attended=places.error(),
        no_motion=nearest(centres),
        nearest=nearest(layer.positions()),
        nearest_undeformed=nearest(layer.grid()[None]),
        outside=layer.outside().mean(axis=1),
    )
    if linear is not None:
        measured['best_linear'] = nearest(centres + linear[:, None])
    return {name: measured[name][places.counted] for name in MEASURES if name in measured}


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
        layers: The layers, as far as they look ahead.
        linear: By the layers' names, the motion that the convolutions of :func:`fit_motion` say,
            (T - 1, 2, H, W), y and x in feature pixels.
    """

    scene: Scene
    displacement: float
    layers: list[LayerAttention]
    linear: dict[str, NDArray[np.floating]]


@torch.no_grad()
def fit_motion(model: BaseModel, clips: SyntheticClips, batch_size: int = 32) -> dict[str, Tensor]:
    r"""Find out how much of the motion could be read from what layers predict offsets from.

    A layer's offsets are a 3 x 3 convolution of its motion saliency map. Of all such convolutions
    this is the one that comes closest to the true motion, by least squares over the cells that
    :class:`Places` counts, whatever the training made of it.

    Args:
        model: The recognizer.
        clips: Drawn clips, with the recognizer's pipeline.
        batch_size: How many are looked at at a time. Default: 32.

    Returns:
        By the names of the SIFA layers that predict offsets, the weight of the convolution,
        (2, C, 3, 3), for y and x in feature pixels.

    Raises:
        ValueError: If the model has no SIFA layer.
    """
    model.eval()
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for start in range(0, len(clips), batch_size):
        batch = range(start, min(start + batch_size, len(clips)))
        with _offset_inputs(model) as inputs:
            model.test_step(pseudo_collate([clips[idx] for idx in batch]))
        scenes = [clips.scene(idx) for idx in batch]
        for name, x in inputs.items():
            truth = [true_places(scene, *x.shape[-2:]) for scene in scenes]
            counted = torch.from_numpy(np.concatenate([cells for _, cells in truth])).flatten()
            moved = np.concatenate([true for true, _ in truth]) - np.indices(x.shape[-2:])
            motion = torch.from_numpy(moved).movedim(1, -1).flatten(0, -2)[counted].double()
            around = F.unfold(x.float().cpu(), kernel_size=3, padding=1).movedim(1, -1)
            around = around.flatten(0, -2)[counted].double()
            squares, products = sums.get(name, (0, 0))
            sums[name] = (squares + around.T @ around, products + around.T @ motion)
    return {
        name: (torch.linalg.pinv(squares, hermitian=True) @ products).T.unflatten(1, (-1, 3, 3))
        for name, (squares, products) in sums.items()
    }


@contextmanager
def _offset_inputs(model: BaseModel) -> Iterator[dict[str, Tensor]]:
    """What the offset predictors of a model's SIFA layers see in a forward pass, by layer."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str, module: torch.nn.Module, args: tuple) -> None:
        inputs[name] = args[0]

    with ExitStack() as hooks:
        for name, layer in sifa_layers(model).items():
            if layer.deformable:
                handle = layer.conv_offset.register_forward_pre_hook(partial(keep, name))
                hooks.callback(handle.remove)
        yield inputs


@torch.no_grad()
def watch(
    model: BaseModel,
    clips: SyntheticClips,
    fits: Mapping[str, Tensor] | None = None,
    num_clips: int = 96,
) -> list[Seen]:
    """Record what the SIFA layers of a recognizer do on drawn clips.

    Args:
        model: The recognizer.
        clips: Drawn clips, with the recognizer's pipeline.
        fits: What :func:`fit_motion` returns. Default: None.
        num_clips: How many of them, the first ones. Default: 96.

    Returns:
        What was seen, for each clip.

    Raises:
        ValueError: If the model has no SIFA layer.
    """
    model.eval()
    seen = []
    for idx in range(min(num_clips, len(clips))):
        with capture_attention(model) as layers, _offset_inputs(model) as inputs:
            model.test_step(pseudo_collate([clips[idx]]))
        linear = {
            name: F.conv2d(inputs[name].cpu().double(), weight, padding=1).numpy()
            for name, weight in (fits or {}).items()
        }
        displacement = clips.get_data_info(idx)['displacement']
        ahead = [layer for layer in layers if layer.frames[0] < layer.frames[-1]]
        seen.append(Seen(clips.scene(idx), displacement, ahead, linear))
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
    for scene, displacement, layers, linear in seen:
        for layer in layers:
            errors[layer.name, displacement].append(
                offset_errors(layer, scene, linear.get(layer.name))
            )
    records = []
    for (layer_name, displacement), parts in sorted(errors.items()):
        means = {m: np.concatenate([part[m] for part in parts]) for m in MEASURES if m in parts[0]}
        cells = len(means['attended'])
        if cells:
            records.append(
                dict(layer=layer_name, displacement=displacement, cells=cells)
                | {name: float(values.mean()) for name, values in means.items()}
            )
    return records
