"""Reading of videos in processes of their own, which a file may crash."""

import gc
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cv2
import torch
from mmcv.transforms import BaseTransform

from mmsifa.datasets.checked import reason_of
from mmsifa.fileio.video import UnreadableVideoError

TIMEOUT = 300  # seconds without a sign of life, then a video counts as unreadable


class Stopwatch:
    """Adds up what goes by inside of ``with``.

    Attributes:
        wall: Milliseconds.
        cpu: Milliseconds of the process's CPU time.

    Example:
        >>> with Stopwatch() as watch:
        ...     sum(range(100_000))
        4999950000
        >>> watch.wall > 0 and watch.cpu > 0
        True
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> 'Stopwatch':
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        wall, cpu = self._start
        self.wall += 1000 * (time.perf_counter() - wall)
        self.cpu += 1000 * (time.process_time() - cpu)


class DecoderCrashError(UnreadableVideoError):
    """A file crashed the process that read it; ``cause`` names the signal or the exit code."""

    def __init__(self, cause: str) -> None:
        super().__init__(f'it crashes the decoder ({cause})')
        self.cause = cause


class ReadingProcess:
    """A process that runs a generator, one item ahead of whoever takes the items.

    A file that crashes the decoder, as a cut-off AVI can, costs this process and no other, and no
    more than two items are in memory. ``multiprocessing.connection.wait`` takes it.

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
                raise DecoderCrashError(cause) from None
            if done and item is None:
                return
            if done:
                raise item
            yield item
        raise UnreadableVideoError(f'the decoder gave nothing for {TIMEOUT} seconds')

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with the next item."""
        return self._end.fileno()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._end.close()


def read_in_process(target: Callable[..., Iterator], video: str | Path, *args: Any) -> list[Any]:
    """Return all that a generator yields of a video, from a :class:`ReadingProcess`.

    Args:
        target: The generator function, which gets the video's path as a string.
        video: Path.
        *args: Its other arguments.

    Returns:
        The items.

    Raises:
        UnreadableVideoError: If the generator raised something or crashed; it names the video.
    """
    with closing(ReadingProcess(target, str(video), *args)) as items:
        try:
            return list(items)
        except UnreadableVideoError as error:
            raise UnreadableVideoError(f'{video} cannot be read ({error})') from error


def each_in_process(
    target: Callable[..., Iterator], tasks: Iterable[tuple], workers: int, timeout: float
) -> Generator[tuple[tuple, Any], None, None]:
    """Run a generator for each of many videos, several at a time, until its first item.

    Args:
        target: The generator function.
        tasks: Its arguments, for each video.
        workers: How many run at a time.
        timeout: Seconds for each.

    Yields:
        Arguments and item, in the order in which they are done; in place of the item an
        :class:`UnreadableVideoError` if the generator raised something, crashed or took too long.
    """
    waiting = iter(tasks)
    running: dict[ReadingProcess, tuple[tuple, float]] = {}
    try:
        while True:
            while len(running) < workers and (task := next(waiting, None)) is not None:
                with _uninterrupted():
                    process = ReadingProcess(target, *task)
                    running[process] = task, time.monotonic() + timeout
            if not running:
                return
            first = min(deadline for _, deadline in running.values())
            readable: list[Any] = list(running)
            done = wait(readable, max(0, first - time.monotonic()))
            now = time.monotonic()
            for process, (task, deadline) in list(running.items()):
                if process in done:
                    try:
                        item = next(iter(process))
                    except UnreadableVideoError as error:
                        item = error
                    yield task, item
                elif now >= deadline:
                    yield task, UnreadableVideoError(f'not done after {timeout:g} seconds')
                else:
                    continue
                del running[process]
                process.close()
    finally:
        for process in running:
            process.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait, so that it leaves no process that is started and not known yet."""
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    for number in interrupts:
        signal.raise_signal(number)


def _run(end: Connection, target: Callable[..., Iterator], args: tuple) -> None:
    """Send what a generator yields, as (False, item), and how it ended, as (True, error)."""
    gc.freeze()  # what the other process left: a decoder waits for threads that are not here
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
        error = UnreadableVideoError(failure_of(raised))
    end.send_bytes(pickle.dumps((True, error)))


def _end_with_the_main_process() -> None:
    """Do not wait for ever to send to a process that was killed."""
    if main := parent_process():
        main.join()
        os._exit(1)


def failure_of(error: Exception) -> str:
    """Why a video failed, with the pipeline's step that raised the error, if one did."""
    step = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(owner := frame.f_locals.get('self'), BaseTransform):
            step = type(owner).__name__
    if step is None and isinstance(error, UnreadableVideoError):
        return str(error)
    return reason_of(step or type(error).__name__, error)
