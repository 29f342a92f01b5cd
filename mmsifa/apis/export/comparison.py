"""How an exported network compares with its recognizer: the scores and the time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from mmsifa.apis.export.samples import Sample, Sampler

ROUNDS = 5  # of timing


@dataclass
class Comparison:
    """How an exported network compares with the recognizer.

    Attributes:
        differences: The largest difference of scores in each check, and that as a share of the
            largest score, by the check's name.
        telling: Whether the scores would show a wrong network: within the tolerance they are
            neither all 0 and 1 nor the same for all clips.
        milliseconds: Median time of one clip of a video, of the recognizer and of the file.
        num_bytes: Size of the file.
    """

    differences: dict[str, tuple[float, float]]
    telling: bool
    milliseconds: tuple[float, float]
    num_bytes: int


def make_checks(
    sampler: Sampler,
    frames: Sequence[np.ndarray],
    videos: Sequence[str] = (),
    longer: bool = False,
    other_size: bool = False,
) -> dict[str, Sample]:
    """Let the recognizer score what a file is to be compared on.

    Args:
        sampler: What the recognizer scores with.
        frames: Decoded clips (V, T, H, W, 3) of videos.
        videos: Paths of these. Defaults to none: the frames were made.
        longer: Whether clips of twice the length are to be among them. Defaults to False.
        other_size: Whether frames of another size are to be. Defaults to False.

    Returns:
        The samples by the checks' names; none has the traced numbers of videos and views.
    """
    names = [Path(video).name for video in videos]
    if len({*names}) < len(names):
        names = list(videos)
    samples = map(sampler.sample, frames)
    checks = dict(zip(names or ['generated frames'], samples, strict=True))
    first = frames[0][:1]
    turned = [first, first[:, :, ::-1].copy(), first[:, ::-1].copy()]
    batch = [sampler.sample(clip) for clip in turned]
    checks['a batch of 3'] = Sample(*(torch.cat(parts) for parts in zip(*batch, strict=True)))
    if longer:
        clip = np.concatenate([first, first[:, ::-1]], axis=1)
        checks['clips of twice the length'] = Sampler(sampler.recognizer, 2).sample(clip)
    if other_size:
        size = sampler.clip_size(first)
        clip = next(clip for clip in _resized(first) if sampler.clip_size(clip) == size)
        checks['frames of another size'] = sampler.sample(clip)
    return checks


def _resized(clip: np.ndarray) -> Iterator[np.ndarray]:
    """Yield larger frames, upright first, which a crop may not fit into."""
    height, width = clip.shape[2:4]
    edges = ((0, 0), (0, 0), (0, height // 8), (0, width // 16), (0, 0))
    larger = np.pad(clip, edges, mode='symmetric')
    yield larger.swapaxes(2, 3).copy()
    yield larger
    yield clip


def difference(scores: Tensor, expected: Tensor) -> tuple[float, float]:
    """Compare scores (N, classes) with the expected ones.

    Args:
        scores: Scores.
        expected: What they should be.

    Returns:
        The largest difference, and the largest share that it has of a video's largest score; NaN
        if a score is.

    Example:
        >>> difference(torch.tensor([[0.25, 0.5]]), torch.tensor([[0.5, 0.5]]))
        (0.25, 0.5)
    """
    differences = (scores - expected).abs().amax(dim=1)
    return differences.max().item(), (differences / expected.amax(dim=1)).max().item()


def is_telling(scores: Tensor, tolerance: float) -> bool:
    """Tell whether other scores than these (N, classes) would be found to differ from them.

    Args:
        scores: Scores of several clips, each from 0 to 1.
        tolerance: What is allowed to differ.

    Returns:
        False if within the tolerance they are all 0 and 1, or the same for all clips.

    Example:
        >>> is_telling(torch.tensor([[0.2, 0.8], [0.7, 0.3]]), 0.001)
        True
        >>> is_telling(torch.tensor([[0, 1.0], [1, 0]]), 0.001)
        False
        >>> is_telling(torch.tensor([[0.2, 0.8], [0.2, 0.8]]), 0.001)
        False
    """
    saturated = torch.minimum(scores, 1 - scores).max() <= tolerance
    same = (scores.amax(dim=0) - scores.amin(dim=0)).max() <= tolerance
    return not saturated and not same


def measure(functions: Sequence[Callable[[Tensor], Tensor]], clip: Tensor) -> tuple[float, ...]:
    """Return the median milliseconds of functions of a clip, which take turns."""
    taken: list[list[float]] = [[] for _ in functions]
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            for function, times in zip(functions, taken, strict=True):
                start = time.perf_counter()
                function(clip).cpu()
                times.append(1000 * (time.perf_counter() - start))
    return tuple(median(times[1:]) for times in taken)  # the first one warms up
