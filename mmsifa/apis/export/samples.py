"""Clips on which an exported network is compared with the recognizer."""

from collections.abc import Iterator, Sequence
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
        self.packing = self.pipeline[names.index('FormatShape') :]

    def video(self, path: str) -> np.ndarray:
        """Decode the sampled frames of a video file, (V, T, H, W, 3).

        Raises:
            UnreadableVideoError: If it cannot be opened or decoded.
        """
        steps = [dict(type='DecordInit'), self.sampling, dict(type='DecordDecode')]
        (frames,) = read_in_process(_decode_file, path, steps)
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
