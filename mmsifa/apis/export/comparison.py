"""How an exported network compares with its recognizer: on which clips, the scores, the time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmaction.models import Recognizer2D
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor

from mmsifa.datasets.pipelines import frame_steps, video_pipeline
from mmsifa.datasets.reading_process import read_in_process
from mmsifa.models.sifa_plugin import frames_of_clip

MAX_CLIPS = 2  # of a video; a test may take 20, which is no other check but a longer one


class Sample(NamedTuple):
    """A video's clips as they were decoded, and what the recognizer makes of them.

    Attributes:
        frames: (1, V, T, H, W, 3), uint8, RGB.
        clips: The same after the test pipeline and the data preprocessor, (1, crops*V, 3, T, H, W).
        scores: What the recognizer's ``predict`` gives, (1, classes).
    """

    frames: Tensor
    clips: Tensor
    scores: Tensor


class Sampler:
    """Takes clips from videos as the test pipeline does, and lets the recognizer score them.

    Args:
        recognizer: In test mode, with its config as ``cfg``.
        frame_factor: How many times as many frames the clips shall have. Defaults to 1.

    Raises:
        ValueError: If the test pipeline makes no clips of RGB frames.
    """

    def __init__(self, recognizer: Any, frame_factor: int = 1) -> None:
        self.recognizer = recognizer
        self.pipeline, _ = video_pipeline(recognizer.cfg)
        self.transforms = frame_steps(self.pipeline)
        names = [step['type'] for step in self.pipeline]
        sampling = [step for step in self.pipeline if 'clip_len' in step]
        if len(sampling) != 1:
            raise ValueError(f'expected one step that samples frames, got {", ".join(names)}')
        self.sampling = sampling[0]
        if isinstance(recognizer, Recognizer2D):
            segments = getattr(recognizer.backbone, 'num_segments', None)
            self.num_frames = segments or self.sampling['num_clips']
            if self.num_frames != frames_of_clip(self.sampling):
                raise ValueError(
                    f'the backbone expects clips of num_segments={segments} frames, but the test '
                    f'pipeline makes clips of {frames_of_clip(self.sampling)}'
                )
        else:
            self.sampling['clip_len'] *= frame_factor
            self.sampling['num_clips'] = min(self.sampling.get('num_clips', 1), MAX_CLIPS)
            self.num_frames = self.sampling['clip_len']
        formatting = names.index('FormatShape')
        self.reading = self.pipeline[: formatting - len(self.transforms)]
        self.packing = self.pipeline[formatting:]

    def video(self, path: str) -> np.ndarray:
        """Decode the sampled frames of a video file, (V, T, H, W, 3).

        Raises:
            UnreadableVideoError: If it cannot be opened or decoded.
        """
        (frames,) = read_in_process(_decode_file, path, self.reading)
        return self._in_clips(frames)

    def generated(self, size: tuple[int, int]) -> np.ndarray:
        """Make frames that move, of a height and width: (V, T, H, W, 3)."""
        step = self.sampling
        length = step['clip_len'] * step.get('frame_interval', 1) * step.get('num_clips', 1)
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        scene = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
        frames = np.stack([np.roll(scene, (t, 2 * t), (0, 1)) for t in range(length)])
        steps = [self.sampling, dict(type='ArrayDecode')]
        frames = _decode(steps, dict(array=frames, total_frames=length))
        return self._in_clips(frames)

    def _in_clips(self, frames: np.ndarray) -> np.ndarray:
        return frames.reshape(-1, self.num_frames, *frames.shape[1:])

    def clip_size(self, frames: np.ndarray) -> tuple[int, int]:
        """Return the height and width of what the pipeline makes of decoded clips."""
        height, width = self._pack(frames)['inputs'].shape[-2:]
        return height, width

    def _pack(self, frames: np.ndarray) -> dict[str, Any]:
        results = dict(
            imgs=list(frames.reshape(-1, *frames.shape[2:])),
            img_shape=frames.shape[2:4],
            num_clips=len(frames),
            clip_len=self.num_frames,
            label=-1,
            modality='RGB',
        )
        return Compose([*self.transforms, *self.packing])(results)

    def sample(self, frames: np.ndarray) -> Sample:
        """Let the recognizer score the decoded clips (V, T, H, W, 3) of a video."""
        data = pseudo_collate([self._pack(frames)])
        with torch.no_grad():
            data = self.recognizer.data_preprocessor(data, training=False)
            clips = data['inputs'].clone()
            scores = self.recognizer(**data, mode='predict')[0].pred_score
        if clips.dim() == 5:  # (1, V*T, 3, H, W), of a Recognizer2D
            clips = clips.unflatten(1, (-1, self.num_frames)).transpose(2, 3)
        return Sample(torch.from_numpy(frames)[None], clips, scores[None])


def _decode_file(video: str, steps: Sequence[dict]) -> Iterator[np.ndarray]:
    yield _decode(steps, dict(filename=video))


def _decode(steps: Sequence[dict], results: dict[str, Any]) -> np.ndarray:
    results |= dict(label=-1, start_index=0, modality='RGB')
    return np.stack(Compose(steps)(results)['imgs'])


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
