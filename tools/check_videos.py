"""Decode every frame of every video of an annotation list and say which ones cannot be read.

Each video is decoded from its start, then frames are taken out of order, as in training, and must
be the same. It has a process of its own: a file that crashes the decoder or keeps it busy for ever
is reported like any other. Exit code 0 says that all are good, 1
that some are bad, 2 that the list or the arguments are wrong, 130 that the check was interrupted.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.progress import track


def parse_args(argv: list[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('list', type=Path, help='annotation list, a line "PATH LABEL" each')
    parser.add_argument('--data-root', default='', help='folder of the paths (the current one)')
    parser.add_argument('--delimiter', default=' ', help='what separates the columns (a space)')
    parser.add_argument('--multi-class', action='store_true', help='lines have several labels')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='videos at a time (one a core)'
    )
    parser.add_argument(
        '--timeout', type=float, default=300, help='seconds for a video, then it is bad (300)'
    )
    parser.add_argument(
        '--thorough', action='store_true', help='take all frames out of order, not ten of a video'
    )
    parser.add_argument('--out-good', type=Path, help='list to write without the bad videos')
    parser.add_argument('--out-bad', type=Path, help='file to write, "PATH<TAB>REASON" a line')
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers must be 1 or more, got {args.workers}')
    if not args.timeout > 0:
        parser.error(f'--timeout must be above 0 seconds, got {args.timeout:g}')
    outputs = [path.resolve() for path in (args.out_good, args.out_bad) if path]
    if len({args.list.resolve(), *outputs}) <= len(outputs):
        parser.error('LIST, --out-good and --out-bad must be different files')
    return parser, args


def main(argv: list[str] | None = None) -> int:
    """Check a list; return the exit code."""
    parser, args = parse_args(argv)
    from mmsifa.atomic_write import check_writable, write_atomically
    from mmsifa.datasets.annotations import annotation_lines, read_annotations
    from mmsifa.datasets.checked import reason_of

    try:
        for path in filter(None, (args.out_good, args.out_bad)):
            check_writable(path)  # before hours of decoding
        samples, _ = read_annotations(
            args.list,
            root=args.data_root,
            delimiter=args.delimiter,
            multi_class=args.multi_class,
            labels_required=False,
        )
        lines = [line for _, line in annotation_lines(args.list)]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    videos = list(dict.fromkeys(sample['filename'] for sample in samples))

    bad: dict[str, str] = {}
    try:
        checked = check(videos, args.workers, args.timeout, args.thorough)
        for video, failure in track(checked, 'Decoding', total=len(videos)):
            if failure:
                step, text = failure
                bad[video] = reason_of(step, RuntimeError(text))
    except KeyboardInterrupt:
        print('Interrupted; no list was written', file=sys.stderr)
        return 130

    for video in videos:
        if video in bad:
            print(f'{video}: {bad[video]}')
    print(f'{len(videos) - len(bad)} of {len(videos)} videos are good, {len(bad)} are bad')
    if args.out_good:
        kept = zip(samples, lines, strict=True)
        good = (f'{line}\n' for sample, line in kept if sample['filename'] not in bad)
        write_atomically(args.out_good, ''.join(good))
    if args.out_bad:
        named = (f'{video}\t{bad[video]}\n' for video in videos if video in bad)
        write_atomically(args.out_bad, ''.join(named))
    return 1 if bad else 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait, so that it leaves no process that is started and not known yet."""
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    for number in interrupts:
        signal.raise_signal(number)


def check(
    videos: Iterable[str], workers: int, timeout: float, thorough: bool = False
) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Decode videos in processes of their own.

    Args:
        videos: Paths.
        workers: How many to decode at a time.
        timeout: Seconds for each.
        thorough: Whether to take all frames out of order. Defaults to False: ten of a video.

    Yields:
        Each path, in the order in which they are done, and None or what failed and why.
    """
    context: Any = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    waiting = iter(videos)
    running: dict[Connection, tuple[str, multiprocessing.process.BaseProcess, float]] = {}
    try:
        while True:
            while len(running) < workers and (video := next(waiting, None)) is not None:
                result, end = context.Pipe(duplex=False)
                process = context.Process(target=decode, args=(video, thorough, end), daemon=True)
                with uninterrupted():
                    process.start()
                    running[result] = video, process, time.monotonic() + timeout
                end.close()
            if not running:
                return
            first = min(deadline for _, _, deadline in running.values())
            done = wait(list(running), max(0, first - time.monotonic()))
            now = time.monotonic()
            for result, (video, process, deadline) in list(running.items()):
                if result in done:
                    yield video, outcome(result, process)
                elif now >= deadline:
                    yield video, ('decoder', f'not done after {timeout:g} seconds')
                else:
                    continue
                del running[result]
                stop(process)
    finally:
        for _, process, _ in running.values():
            stop(process)


def outcome(
    result: Connection, process: multiprocessing.process.BaseProcess
) -> tuple[str, str] | None:
    """What the process of a video has to say, or what happened to it if it says nothing."""
    try:
        return result.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f'exit code {code}'
        return 'decoder', f'crashed ({cause})'


def stop(process: multiprocessing.process.BaseProcess) -> None:
    """End a process, if it has not ended, and wait for it."""
    process.kill()
    process.join()


def decode(video: str, thorough: bool, end: Connection) -> None:
    """Decode a video as ``DecordInit`` and ``DecordDecode`` do and send what failed, or None."""
    from mmaction.datasets.transforms import DecordInit

    from mmsifa.video import check_frames

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops this one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoder's own words
    step = 'DecordInit'
    try:
        reader = DecordInit().transform(dict(filename=video))['video_reader']
        step = 'DecordDecode'
        check_frames(reader, thorough)
    except Exception as error:
        end.send((step, str(error) or type(error).__name__))
    else:
        end.send(None)


if __name__ == '__main__':
    sys.exit(main())
