"""A video seen by a recognizer: the clip, the scores, and what its SIFA layers did."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsifa.apis.inspection.capture import capture_attention, sifa_layers
from mmsifa.apis.inspection.records import Inspection
from mmsifa.datasets.checked import PROGRAMMING_ERRORS, reason_of
from mmsifa.datasets.pipelines import frame_span, one_view_pipeline
from mmsifa.datasets.reading_process import read_in_process
from mmsifa.fileio.text_files import escape_path
from mmsifa.fileio.video import UnreadableVideoError


def inspect_video(
    model: nn.Module,
    video: str | Path,
    start: float | None = None,
    labels: Sequence[str] | None = None,
    checkpoint: str = '',
    num_scores: int = 5,
) -> Inspection:
    """Run a recognizer once on a clip of a video and record its inter-frame attention.

    The clip goes through the test pipeline of the recognizer's config, as one clip and one crop:
    a single clip in the place of several, the centre in the place of ``ThreeCrop`` or ``TenCrop``,
    video files in the place of raw frames. Frames are shown as the network saw them.

    Args:
        model: The recognizer with its config as ``cfg``, as
            :func:`~mmsifa.apis.load_recognizer` returns it.
        video: The video file.
        start: Where the clip starts, in seconds. A pipeline that spreads its frames over the whole
            video spreads them from there on. Defaults to None: the clip in the middle.
        labels: Names of the classes. Defaults to None: their numbers.
        checkpoint: Name of the weights' file, for the record.
        num_scores: How many of the best classes are kept. Defaults to 5.

    Returns:
        The clip, the best classes and what every SIFA layer did.

    Raises:
        ValueError: If the model has no SIFA layer, the clip starts after the video's end, or at a
            second though ``DecordInit`` does not open the video, or makes a single feature frame,
            the scores are NaN or infinite, or there are not as many labels
            as classes.
        UnreadableVideoError: If the video cannot be opened or decoded.

    Example:
        ::

            config = load_config('sifa_r50_k400')
            model = load_recognizer(config, 'sifa_r50.pth')
            inspection = inspect_video(model, 'video.mp4', start=2.5)
            inspection.layers[0].entropy().mean()
    """
    sifa_layers(model)
    config: Any = model.cfg
    preprocess: Any = model.data_preprocessor
    classes = getattr(model.cls_head, 'num_classes', None)
    if labels is not None and classes is not None and len(labels) != classes:
        raise ValueError(f'expected a label for each of {classes} classes, got {len(labels)}')
    init_default_scope(config.get('default_scope', 'mmaction'))
    data, times = _load_clip(one_view_pipeline(config), video, start)
    with torch.no_grad():
        data = preprocess(pseudo_collate([data]), False)
        views, num_frames = clip_sizes(model, data['inputs'][0])
        with capture_attention(model, num_frames) as layers:
            (sample,) = model(**data, mode='predict')
    if not sample.pred_score.isfinite().all():
        raise ValueError(
            f'the network gives scores that are NaN or infinite for {video}: look at its weights'
        )
    if not layers:
        raise ValueError(
            f'a clip of {num_frames or data["inputs"].shape[1] // views} frames makes a single '
            'feature frame, which has no next one to attend to (give the test pipeline a longer '
            'clip_len), or the model was compiled, where nothing can be recorded'
        )
    return Inspection(
        video=escape_path(Path(video).name),
        config=escape_path(Path(config.filename or '').name),
        checkpoint=escape_path(Path(checkpoint).name),
        frames=clip_frames(model, data['inputs'][0]),
        layers=layers,
        scores=best_scores(sample.pred_score, labels, num_scores),
        times=times,
    )


def _load_clip(
    pipeline: list[dict], video: str | Path, start: float | None
) -> tuple[dict, list[float]]:
    """Read a clip and its frames' times in a process that the decoder may crash or print in."""
    *warnings, outcome = read_in_process(_read_clip, video, pipeline, start)
    for warning in warnings:
        print_log(warning, logger='current', level=logging.WARNING)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _read_clip(video: str, pipeline: list[dict], start: float | None) -> Iterator[Any]:
    """Yield warnings, then the clip and its times, or the error if the video is not at fault."""
    try:
        yield from _run_steps(video, pipeline, start)
    except UnreadableVideoError:
        raise
    except Exception as error:
        yield error


def _run_steps(video: str, pipeline: list[dict], start: float | None) -> Iterator[Any]:
    results: Any = dict(filename=video, label=-1, start_index=0, modality='RGB')
    times: list[float] = []
    for config in pipeline:
        try:
            results = Compose([config])(results)
        except PROGRAMMING_ERRORS:
            raise
        except Exception as error:
            if not config['type'].startswith('Decord'):
                raise
            raise UnreadableVideoError(reason_of(config['type'], error)) from error
        if config['type'] == 'DecordInit' and start is not None:
            _start_at(results, start, frame_span(pipeline))
            start = None
        if 'frame_inds' in results and results['video_reader'] is not None:  # decoded next
            frames = results['frame_inds']
            times = results['video_reader'].times[frames].tolist()
            if len(set(frames.tolist())) < frames.size:
                yield (
                    f'{video} has only {results["total_frames"]} frames for a clip of '
                    f'{frames.size} of them: some are repeated'
                )
    if start is not None:
        raise ValueError(
            f'a clip starts at a second if DecordInit opens the video, got {pipeline[0]["type"]} '
            'in the test pipeline: leave start out'
        )
    yield results, times


def _start_at(results: dict, start: float, span: int | None) -> None:
    """Leave of a video that was opened the frames from a second on, as many as a clip spans."""
    reader, total = results['video_reader'], results['total_frames']
    if not 0 <= start < reader.duration:
        raise ValueError(
            f'the clip must start within the video, which lasts {reader.duration:.2f} seconds, got '
            f'{start}'
        )
    first = reader.frame_at(start)
    results['start_index'] = first
    results['total_frames'] = min(total - first, span or total)


def clip_sizes(recognizer: nn.Module, sample: Tensor) -> tuple[int, int | None]:
    """Tell how many clips a recognizer makes of a sample and from how many frames each.

    Args:
        recognizer: A ``Recognizer3D`` or ``Recognizer2D``.
        sample: Its input of one video, (M, C, T, H, W) clips or (M, C, H, W) frames.

    Returns:
        The number of clips and crops, and T, or None of separate frames, whose features stand for
        themselves.
    """
    if sample.dim() == 5:
        return len(sample), sample.shape[2]
    segments = getattr(recognizer.backbone, 'num_segments', None) or len(sample)
    return len(sample) // segments, None


def clip_frames(recognizer: nn.Module, sample: Tensor) -> NDArray[np.uint8]:
    """Make pictures of what a recognizer saw of a video's first clip.

    Args:
        recognizer: A recognizer with a ``data_preprocessor``.
        sample: Its input of one video after that, (M, C, T, H, W) clips or (M, C, H, W) frames.

    Returns:
        The frames, (frames, height, width, 3), RGB.
    """
    views, _ = clip_sizes(recognizer, sample)
    clip = sample[0].transpose(0, 1) if sample.dim() == 5 else sample[: len(sample) // views]
    preprocessor: Any = recognizer.data_preprocessor
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = (part.reshape(-1, 1, 1) for part in (preprocessor.mean, preprocessor.std))
        clip = clip * std + mean
    pixels = clip.float().round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def best_scores(
    scores: Tensor, labels: Sequence[str] | None = None, count: int = 5
) -> list[tuple[str, float]]:
    """Name the best classes.

    Args:
        scores: Scores of all classes.
        labels: Their names. Defaults to None: their numbers.
        count: How many to name. Defaults to 5.

    Returns:
        Names and scores, the best first.

    Example:
        >>> import torch
        >>> best_scores(torch.tensor([0.25, 0.75]), ['left', 'right'])
        [('right', 0.75), ('left', 0.25)]
    """
    best = scores.float().topk(min(count, len(scores)))
    return [
        (labels[index] if labels else f'class {index}', score)
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
