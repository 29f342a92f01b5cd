"""Scores of videos, whole or in sliding windows, by a recognizer's test pipeline."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import autocast
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsifa.datasets.class_folders import VIDEO_SUFFIXES
from mmsifa.datasets.pipelines import video_pipeline
from mmsifa.datasets.reading_process import ReadingProcess, failure_of
from mmsifa.fileio.video import UnreadableVideoError, VideoReader, tolerance

EPSILON = 1e-6  # seconds, of rounding


class Window(NamedTuple):
    """A part of a video from one second to another, in which frames first to last - 1 are seen."""

    first: int
    last: int
    start: float
    end: float


def sliding_windows(
    times: Sequence[float] | NDArray, duration: float, seconds: float, stride: float
) -> list[Window]:
    """Return the windows that cover a video.

    A window has the frames that are seen in it. All are equally long: the last one ends with the
    video, so it may overlap the one before more than the others do. A video that is shorter than a
    window is one window.

    Args:
        times: When each frame appears, in seconds.
        duration: When the video ends, in seconds.
        seconds: Length of a window.
        stride: From the start of one to the start of the next, in seconds.

    Returns:
        The windows, in order.

    Example:
        >>> times = [i / 10 for i in range(100)]
        >>> [window[:2] for window in sliding_windows(times, 10, seconds=4, stride=4)]
        [(0, 40), (40, 80), (60, 100)]
    """
    final = max(0.0, duration - seconds)
    starts = np.append(np.arange(0, final - EPSILON, stride), final)
    ends = np.minimum(starts + seconds, duration)
    firsts = np.searchsorted(times, starts + tolerance(times), side='right') - 1
    lasts = np.searchsorted(times, ends - tolerance(times))
    windows: dict[tuple[int, int], Window] = {}  # a stride below a frame gives some again
    for first, last, start, end in zip(firsts, lasts, starts, ends, strict=True):
        frames = int(first), int(last)
        windows.setdefault(frames, Window(*frames, round(float(start), 6), round(float(end), 6)))
    return list(windows.values())


def video_samples(
    video: str, pipeline: Compose, sliding: tuple[float, float] | None = None
) -> Iterator[Any]:
    """Yield the windows of a video, then for each its sample or why there is none.

    Args:
        video: Path.
        pipeline: The steps of :func:`video_pipeline`, composed.
        sliding: Length and stride of windows in seconds. Defaults to None: the whole video, which
            is the window None.

    Yields:
        The list of windows, then for each what the pipeline makes of its frames, or an
        :class:`UnreadableVideoError`.

    Raises:
        UnreadableVideoError: If the video cannot be opened.
    """
    if os.path.islink(video) and not os.path.exists(video):
        raise UnreadableVideoError('it is a link to no file')
    if os.path.isdir(video):
        os.listdir(video)  # says why a folder cannot be searched
    if not stat.S_ISREG(os.stat(video).st_mode):
        raise UnreadableVideoError('it is no file')
    names = [type(step).__name__ for step in pipeline.transforms]
    # Without it, the first step opens the video
    opened = names.index('DecordInit') + 1 if 'DecordInit' in names else 1
    info = dict(filename=video, label=-1, start_index=0, modality='RGB')
    rest = Compose(pipeline.transforms[opened:])
    if sliding is None:
        info = Compose(pipeline.transforms[:opened])(info)
        yield [None]
        yield rest(info)
        return
    reader = VideoReader(video)
    windows = sliding_windows(reader.times, reader.duration, *sliding)
    yield windows
    for window in windows:
        try:
            yield rest(
                dict(
                    info,
                    video_reader=reader,
                    avg_fps=reader.get_avg_fps(),
                    start_index=window.first,
                    total_frames=window.last - window.first,
                )
            )
        except Exception as error:
            yield UnreadableVideoError(failure_of(error))


@dataclass(eq=False)
class Prediction:
    """The scores of a video, or of a window of it.

    Attributes:
        scores: A score for each class, (num_classes,), on the CPU, as ``mim test --dump`` writes.
        window: The frames and seconds, None for the whole video.
    """

    scores: Tensor
    window: Window | None = None

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """Return the classes of the highest scores, best first, and these."""
        best = self.scores.topk(min(count, len(self.scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


@dataclass(eq=False)
class VideoResult:
    """What came of a video.

    Attributes:
        video: Path.
        predictions: One for the whole video or for each window that could be scored.
        windows: How many there should be; 0 if the video could not be opened.
        failures: Why windows have no prediction.
        read: Whether all that can be read of it has been.
    """

    video: str
    predictions: list[Prediction] = field(default_factory=list)
    windows: int = 0
    failures: list[str] = field(default_factory=list)
    read: bool = False

    @property
    def error(self) -> str | None:
        """Why the video, or a part of it, could not be scored; None if it could."""
        if not self.failures:
            return None
        if not self.predictions:
            return self.failures[0]
        return f'{len(self.failures)} of {self.windows} windows: {self.failures[0]}'


def find_videos(paths: Sequence[str | Path]) -> list[str]:
    """Return the videos of files and folders.

    Args:
        paths: Files, which are taken whatever their names, and folders, which are searched with
            all folders in them for names that end as those of videos do. Links to folders are
            followed; names with a leading dot are left out.

    Returns:
        Paths of files, each once, those of a folder in alphabetical order. Links that lead nowhere
        and folders that cannot be searched are among them, since videos may be missing there.

    Raises:
        ValueError: If there is no such file or folder, or a folder has no video.
    """
    videos: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(_search(str(path), set()))
            if not found:
                raise ValueError(
                    f'no video in the folder {path}: expected names that end in '
                    f'{", ".join(VIDEO_SUFFIXES)}'
                )
            videos += found
        elif path.exists():
            videos.append(str(path))
        else:
            raise ValueError(f'no such file or folder: {path}')
    return list(dict.fromkeys(videos))


def _search(folder: str, seen: set[str]) -> Iterator[str]:
    """Yield the videos of a folder, and what in it cannot be searched."""
    real = os.path.realpath(folder)
    if real in seen:  # a link led back
        return
    seen.add(real)
    try:
        names = os.listdir(folder)
    except OSError:
        yield folder
        return
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            yield from _search(path, seen)
        elif not name.startswith('.') and (
            Path(name).suffix.lower() in VIDEO_SUFFIXES or not os.path.exists(path)
        ):
            yield path


def predict_videos(
    model: nn.Module,
    videos: Sequence[str],
    sliding: tuple[float, float] | None = None,
    batch_size: int | None = None,
    amp: bool = False,
    on_window: Callable[[VideoResult], None] | None = None,
) -> Iterator[VideoResult]:
    """Score videos as in testing: with the config's clips, crops and averaging.

    Videos are decoded ahead, in processes of their own, while the model computes. The samples of
    several videos make a batch if they are of one shape, unless the config's
    ``model.test_cfg.max_testing_views`` asks for one at a time.

    Args:
        model: Recognizer with its config as ``cfg``, as of :func:`load_recognizer`.
        videos: Paths.
        sliding: Length and stride of windows in seconds, see :func:`sliding_windows`: each is
            scored as a video of its own. Defaults to None: whole videos.
        batch_size: Videos or windows at a time. Defaults to None: that of ``test_dataloader``.
        amp: Whether to compute in mixed precision. Defaults to False.
        on_window: Called with the result after each of its windows. Defaults to None.

    Yields:
        The result of each video, in their order.

    Raises:
        ValueError: If the config's recognizer takes no videos, or windows are asked for and
            ``DecordInit`` does not open the videos.

    Example:
        >>> model = load_recognizer(load_config('sifa_tiny_motion'), FILE)  # doctest: +SKIP
        >>> for result in predict_videos(model, ['clip.mp4']):  # doctest: +SKIP
        ...     print(result.error or result.predictions[0].top())
    """
    config: Any = model.cfg
    init_default_scope(config.get('default_scope', 'mmaction'))
    pipeline = Compose(video_pipeline(config, windows=bool(sliding))[0])
    batch_size = batch_size or config.get('test_dataloader', {}).get('batch_size', 1)
    if (config.model.get('test_cfg') or {}).get('max_testing_views'):
        batch_size = 1
    unfinished: deque[VideoResult] = deque()
    batch: list[tuple[VideoResult, Window | None, dict]] = []
    for result, window, data in _read_ahead(videos, pipeline, sliding):
        if result not in unfinished:
            unfinished.append(result)
        if batch and data is not None and _shape(data) != _shape(batch[0][2]):
            _score(model, batch, amp, on_window)
        if data is not None:
            batch.append((result, window, data))
        if len(batch) == batch_size:
            _score(model, batch, amp, on_window)
        while unfinished and unfinished[0].read and not any(r is unfinished[0] for r, *_ in batch):
            yield unfinished.popleft()
    if batch:
        _score(model, batch, amp, on_window)
    yield from unfinished


def _read_ahead(
    videos: Sequence[str], pipeline: Compose, sliding: tuple[float, float] | None
) -> Iterator[tuple[VideoResult, Window | None, dict | None]]:
    """Yield the samples of videos, and at the end of each video None."""
    waiting, ahead = iter(videos), min(4, os.cpu_count() or 1)
    running: deque[tuple[VideoResult, ReadingProcess]] = deque()
    try:
        while True:
            while len(running) < ahead and (video := next(waiting, None)) is not None:
                running.append(
                    (VideoResult(video), ReadingProcess(video_samples, video, pipeline, sliding))
                )
            if not running:
                return
            result, worker = running[0]
            items = iter(worker)
            remaining: list[Window | None] = []
            try:
                remaining = next(items)
                result.windows = len(remaining)
                for item in items:
                    window = remaining.pop(0)
                    if isinstance(item, UnreadableVideoError):
                        result.failures.append(str(item))
                    else:
                        yield result, window, item
            except UnreadableVideoError as error:
                result.failures += [str(error)] * max(1, len(remaining))
            worker.close()
            running.popleft()
            result.read = True
            yield result, None, None
    finally:
        for _, worker in running:
            worker.close()


def _shape(data: dict) -> Any:
    """What must be alike in a batch."""
    return getattr(data['inputs'], 'shape', None)


def _score(
    model: Any,
    batch: list[tuple[VideoResult, Window | None, dict]],
    amp: bool,
    on_window: Callable[[VideoResult], None] | None,
) -> None:
    """Run the model on a batch, give its scores to the results, and empty it."""
    device = next(model.parameters()).device.type
    data = pseudo_collate([sample for *_, sample in batch])
    with torch.no_grad(), autocast(device_type=device, enabled=amp):
        samples = model.test_step(data)
    for (result, window, _), sample in zip(batch, samples, strict=True):
        scores = sample.pred_score.float().cpu()
        if scores.isfinite().all():
            result.predictions.append(Prediction(scores, window))
        else:
            result.failures.append('the network gives scores that are NaN or infinite')
        if on_window:
            on_window(result)
    batch.clear()
