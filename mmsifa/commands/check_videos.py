"""Decode all videos of a list and name the bad ones.

Every video of an annotation list is decoded from its start, then frames are taken out of order, as
in training, and must be the same. Of a list of raw frames each picture is decoded. A video has a
process of its own: a file that crashes the decoder or keeps it busy for ever is reported like any
other. Exit code 0 says that all are good, 1 that some are bad, 2 that the list or the arguments are
wrong, 130 that the check was interrupted.

Example:
    mmsifa check-videos train_list.txt --data-root videos --out-good good.txt
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmsifa.commands.options import delimiter, progress_bar
from mmsifa.fileio.atomic_write import check_writable, open_unfinished, write_atomically
from mmsifa.fileio.text_files import escape_path

if TYPE_CHECKING:
    from mmsifa.datasets.raw_frames import RawFrames

    Sample: TypeAlias = str | RawFrames  # a video's path, or the frames of one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        'list', type=Path, help='annotation list, "PATH LABEL" or "FOLDER FRAMES LABEL" a line'
    )
    parser.add_argument('--data-root', default='', help='folder of the paths (the current one)')
    parser.add_argument(
        '--delimiter',
        type=delimiter,
        help=r'between the columns, \t for a tab (a space, of raw frames any white space)',
    )
    parser.add_argument('--multi-class', action='store_true', help='lines have several labels')
    parser.add_argument(
        '--with-offset', action='store_true', help='raw frames, lines "FOLDER OFFSET FRAMES LABEL"'
    )
    parser.add_argument(
        '--filename-tmpl',
        type=frame_template,
        help="raw frames' names, as in the config (what the first folder has)",
    )
    parser.add_argument(
        '--start-index', type=int, help='number of the first raw frame, as in the config (0 or 1)'
    )
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


def check_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with an error if an argument is wrong."""
    if args.workers < 1:
        parser.error(f'--workers must be 1 or more, got {args.workers}')
    if not args.timeout > 0:
        parser.error(f'--timeout must be above 0 seconds, got {args.timeout:g}')
    outputs = [path.resolve() for path in (args.out_good, args.out_bad) if path]
    if len({args.list.resolve(), *outputs}) <= len(outputs):
        parser.error('LIST, --out-good and --out-bad must be different files')


def frame_template(text: str) -> str:
    """Take a template of frames' names that gives each number another name."""
    try:
        several = text.format(0) != text.format(1)
    except (AttributeError, LookupError, TypeError, ValueError):
        several = False
    if not several:
        raise argparse.ArgumentTypeError(
            f'expected a name with one place for the number, such as img_{{:05}}.jpg, got {text}'
        )
    return text


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Check a list; return the exit code."""
    from mmsifa.datasets.annotations import annotation_lines

    check_arguments(args, parser)
    try:
        for path in filter(None, (args.out_good, args.out_bad)):
            check_writable(path)  # before hours of decoding
        samples = read_samples(args)
        lines = [line for _, line in annotation_lines(args.list)]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    videos = list(dict.fromkeys(samples))

    found: dict[Sample, str | None] = {}
    waiting = deque(videos)
    rows = open_unfinished(args.out_bad) if args.out_bad else None
    try:
        decoded = check(videos, args.workers, args.timeout, args.thorough)
        with progress_bar() as progress:
            for video, failure in progress.track(decoded, len(videos), description='Decoding'):
                found[video] = failure
                while waiting and waiting[0] in found:  # said at once, in the order of the list
                    if reason := found[named := waiting.popleft()]:
                        if rows:
                            rows.write(f'{escape_path(str(named))}\t{reason}\n'.encode())
                            rows.flush()
                        print(f'{escape_path(str(named))}: {reason}', flush=True)
    except KeyboardInterrupt:
        print('Interrupted; no list was written', file=sys.stderr)
        if rows:
            Path(rows.name).unlink()
        return 130

    bad = sum(reason is not None for reason in found.values())
    print(f'{len(videos) - bad} of {len(videos)} videos are good, {bad} are bad')
    if args.out_good:
        kept = zip(samples, lines, strict=True)
        good = (f'{line}\n' for sample, line in kept if not found[sample])
        write_atomically(args.out_good, ''.join(good))
    if rows:
        os.replace(rows.name, args.out_bad)
    return 1 if bad else 0


def read_samples(args: argparse.Namespace) -> list[Sample]:
    """Return what each line of the list names; say how frames are called if that was found out."""
    from mmsifa.datasets.annotations import read_annotations
    from mmsifa.datasets.raw_frames import RawFrames, frame_names, lists_folders

    options: dict[str, Any] = dict(
        root=args.data_root, multi_class=args.multi_class, labels_required=False
    )
    raw = args.with_offset or args.filename_tmpl or args.start_index is not None
    if not raw and not lists_folders(args.list, args.data_root, args.delimiter):
        options['delimiter'] = args.delimiter or ' '
        return [sample['filename'] for sample in read_annotations(args.list, **options)[0]]
    columns = ('frame_dir', *(['offset'] if args.with_offset else []), 'total_frames')
    samples, _ = read_annotations(args.list, columns, delimiter=args.delimiter, **options)
    template, first = args.filename_tmpl, args.start_index
    if template is None or first is None:
        known = frame_names(sample['frame_dir'] for sample in samples)
        template = known[0] if template is None else template
        first = known[1] if first is None else first
    print(f'Raw frames, as with filename_tmpl={template!r} and start_index={first} in a config')
    starts = [first + sample.get('offset', 0) for sample in samples]
    return [
        RawFrames(sample['frame_dir'], template, range(start, start + sample['total_frames']))
        for sample, start in zip(samples, starts, strict=True)
    ]


def check(
    videos: Iterable[Sample], workers: int, timeout: float, thorough: bool = False
) -> Iterator[tuple[Sample, str | None]]:
    """Decode videos in processes of their own.

    Args:
        videos: Paths, or raw frames.
        workers: How many to decode at a time.
        timeout: Seconds for each.
        thorough: Whether to take all frames out of order. Defaults to False: ten of a video.

    Yields:
        Each, in the order in which they are done, and None or what failed and why.
    """
    from mmsifa.datasets.reading_process import DecoderCrashError, each_in_process

    tasks = ((video, thorough) for video in videos)
    for (video, _), failure in each_in_process(decode, tasks, workers, timeout):
        if isinstance(failure, DecoderCrashError):
            yield video, f'decoder: crashed ({failure.cause})'
        else:
            yield video, f'decoder: {failure}' if isinstance(failure, Exception) else failure


def decode(video: Sample, thorough: bool) -> Iterator[str | None]:
    """Decode a video as the data sets' pipelines do; yield what failed, or None."""
    from mmaction.datasets.transforms import DecordInit

    from mmsifa.datasets.checked import reason_of
    from mmsifa.datasets.raw_frames import RawFrames, check_raw_frames
    from mmsifa.fileio.video import check_frames

    step = 'DecordInit'
    try:
        if isinstance(video, RawFrames):
            check_raw_frames(video)
        else:
            reader = DecordInit().transform(dict(filename=video))['video_reader']
            step = 'DecordDecode'
            check_frames(reader, thorough)
    except Exception as error:
        yield str(error) if isinstance(video, RawFrames) else reason_of(step, error)
    else:
        yield None
