"""Windows that slide over a video, and what a recognizer's test pipeline makes of each."""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import Compose
from numpy.typing import NDArray

from mmsifa.datasets.reading_process import failure_of
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
    opened = next(i for i, name in enumerate(names) if name.endswith('Init')) + 1
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
