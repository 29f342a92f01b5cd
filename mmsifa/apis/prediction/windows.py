"""What a recognizer's test pipeline makes of video files, decoded in processes of their own."""

import os
import pickle
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmaction.utils import get_str_type
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from numpy.typing import NDArray

from mmsifa.datasets.checked import reason_of
from mmsifa.fileio.config_files import config_errors
from mmsifa.fileio.video import UnreadableVideoError, VideoReader, tolerance

VIDEO_DECODERS = ('DecordDecode', 'PyAVDecode', 'OpenCVDecode', 'PIMSDecode')
EPSILON = 1e-6  # seconds, of rounding
TIMEOUT = 300  # seconds without a sign of life, then a video counts as unreadable


class Window(NamedTuple):
    """A part of a video from one second to another, in which frames first to last - 1 are seen."""

    first: int
    last: int
    start: float
    end: float


@config_errors()
def video_pipeline(config: Config) -> tuple[list[dict], str | None]:
    """Return the steps by which a config tests, for video files.

    They read by :class:`~mmsifa.fileio.video.VideoReader`, whatever the config decodes by.

    Args:
        config: Config of a recognizer.

    Returns:
        The steps, with names that MMAction2's need no scope in, and one sentence on what was
        changed, if anything was.

    Raises:
        ValueError: If the recognizer takes no RGB videos or gives no probabilities of classes, or
            a step cannot be built.
    """
    loader = config.get('test_dataloader')
    dataset = loader.dataset if loader else Config(dict(pipeline=config.get('test_pipeline')))
    steps = [
        {**step, 'type': get_str_type(step['type']).removeprefix('mmaction.')}
        for step in dataset.get('pipeline') or config.get('test_pipeline') or []
    ]
    if not steps:
        raise ValueError(
            'the config has no test pipeline: expected test_dataloader, as for testing'
        )
    types = [step['type'] for step in steps]
    decoders = [i for i, kind in enumerate(types) if kind in (*VIDEO_DECODERS, 'RawFrameDecode')]
    flow = dataset.get('modality', 'RGB') != 'RGB'
    if len(decoders) != 1 or flow or 'MMRecognizer' in str(config.model.type):
        raise ValueError(
            f'the config tests a {config.model.type} on '
            f'{"optical flow" if flow else "data of steps " + ", ".join(types[:3])}: expected a '
            'recognizer of RGB video frames'
        )
    head = config.model.get('cls_head')
    if head is None:
        raise ValueError(
            f'the config is of a {config.model.type} without a cls_head: expected a recognizer, '
            'which scores classes'
        )
    if head.get('average_clips') != 'prob':
        raise ValueError(
            f'the scores of a head with average_clips={head.get("average_clips")!r} are no '
            "probabilities: set model.cls_head.average_clips='prob'"
        )
    decode = decoders[0]
    raw = types[decode] == 'RawFrameDecode'
    if types[decode] != 'DecordDecode':
        steps[decode] = dict(type='DecordDecode')
        inits = [step for step, kind in zip(steps, types, strict=True) if kind.endswith('Init')]
        steps = [dict(type='DecordInit'), *(step for step in steps if step not in inits)]
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmaction')):
        Compose(steps)  # refuses what cannot be built
    note = 'The config tests on raw frames; here they are read from the videos' if raw else None
    return steps, note


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


class Worker:
    """A process that runs a generator ahead of who takes what it yields, by one item.

    A file that crashes the decoder, as a cut-off AVI can, costs this process and no other, and no
    more than two items are in memory.

    Args:
        target: The generator function.
        *args: Its arguments.

    Raises:
        UnreadableVideoError: When it is iterated and the generator raised something, the process
            crashed or is silent for 300 seconds.
    """

    def __init__(self, target: Callable[..., Iterator], *args: Any):
        context: Any = get_context('fork' if sys.platform == 'linux' else 'spawn')
        self._end, end = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(end, target, args), daemon=True)
        self._process.start()
        end.close()

    def __iter__(self) -> Iterator[Any]:
        while self._end.poll(TIMEOUT):
            try:
                done, item = pickle.loads(self._end.recv_bytes())
            except EOFError:
                self._process.join()
                code = self._process.exitcode or 0
                cause = signal.Signals(-code).name if code < 0 else f'exit code {code}'
                raise UnreadableVideoError(f'it crashes the decoder ({cause})') from None
            if done and item is None:
                return
            if done:
                raise item
            yield item
        raise UnreadableVideoError(f'the decoder gave nothing for {TIMEOUT} seconds')

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._end.close()


def read_by_worker(target: Callable[..., Iterator], video: str | Path, *args: Any) -> list[Any]:
    """Return all that a generator yields of a video, from a :class:`Worker`.

    Args:
        target: The generator function, which gets the video's path as a string.
        video: Path.
        *args: Its other arguments.

    Returns:
        The items.

    Raises:
        UnreadableVideoError: If the generator raised something or crashed; it names the video.
    """
    with closing(Worker(target, str(video), *args)) as worker:
        try:
            return list(worker)
        except UnreadableVideoError as error:
            raise UnreadableVideoError(f'{video} cannot be read ({error})') from error


def _run(end: Connection, target: Callable[..., Iterator], args: tuple) -> None:
    """Send what a generator yields, as (False, item), and how it ended, as (True, error)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops this one
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # the decoder's own words
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    error = None
    try:
        for item in target(*args):
            end.send_bytes(pickle.dumps((False, item)))
    except Exception as raised:
        error = UnreadableVideoError(_reason(raised))
    end.send_bytes(pickle.dumps((True, error)))


def _end_with_the_main_process() -> None:
    """Do not wait for ever to send to a process that was killed."""
    if main := parent_process():
        main.join()
        os._exit(1)


def _reason(error: Exception) -> str:
    """Why a video failed, with the pipeline's step that raised the error, if one did."""
    step = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(owner := frame.f_locals.get('self'), BaseTransform):
            step = type(owner).__name__
    if step is None and isinstance(error, UnreadableVideoError):
        return str(error)
    return reason_of(step or type(error).__name__, error)


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
            yield UnreadableVideoError(_reason(error))
