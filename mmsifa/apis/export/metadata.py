"""What a file says of itself."""

import json
from pathlib import Path
from typing import Any

from mmaction.models import Recognizer2D

from mmsifa.datasets.pipelines import sampling_of, video_pipeline
from mmsifa.version import __version__


def describe(
    recognizer: Any, num_frames: str, size: tuple[int, int], sides: str | None = None
) -> dict[str, str]:
    """Return what somebody who has only the file needs to know.

    Args:
        recognizer: The recognizer, with its config as ``cfg``.
        num_frames: Frames of a clip, a number or in words.
        size: Height and width of its clips.
        sides: Height and width of frames, in words, where the file takes those. Defaults to None:
            it takes clips.

    Returns:
        Text by its name.
    """
    pipeline, _ = video_pipeline(recognizer.cfg)
    sampling = sampling_of(pipeline, isinstance(recognizer, Recognizer2D))
    normalize = recognizer.data_preprocessor
    height, width = size
    known: dict[str, Any] = {
        'producer': f'mmsifa {__version__}',
        'config': Path(recognizer.cfg.filename or 'config').stem,
        'input': 'clips',
        'shape': f'videos, views, 3, {num_frames}, {height}, {width}',
        'dtype': 'float32',
        'channels': 'BGR' if getattr(normalize, 'to_rgb', False) else 'RGB',
        'sampling': sampling,
        'multi_class': recognizer.cls_head.multi_class,
        'average_clips': recognizer.cls_head.average_clips,
        'test_pipeline': json.dumps(pipeline, default=str, allow_nan=False),
    }
    if sampling.interval is not None:
        known |= dict(clip_len=sampling.frames, frame_interval=sampling.interval)
    if sides:
        shape = f'videos, views, {num_frames}, {sides}, 3'
        known |= dict(input='frames', shape=shape, dtype='uint8', channels='RGB')
    elif getattr(normalize, '_enable_normalize', False):
        known['mean'] = json.dumps(normalize.mean.flatten().tolist())
        known['std'] = json.dumps(normalize.std.flatten().tolist())
    return {key: str(value) for key, value in known.items()}
