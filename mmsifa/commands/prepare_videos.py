"""Encode videos anew so that they decode fast.

SRC is a folder or an annotation list of videos. DST gets the same folders with an MP4 for each
video, which has the same frames at the same times, upright and without sound. DST also gets the
annotation lists (of a folder those of make-lists), a list of the videos that cannot be read, and
prepare_videos.json, which says what was gained. What is done is kept: after an interruption start
the command again. Exit code 0 says that all is done, 1 that videos or lists are missing, 2 that
arguments are wrong or DST cannot be written, 130 that the command was interrupted.

Example:
    mmsifa prepare-videos videos/ videos_256/
    mmsifa prepare-videos train.txt videos_256/ --data-root videos/
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsifa.commands.options import delimiter, progress_bar
from mmsifa.fileio.atomic_write import check_writable, remove_unfinished, write_atomically
from mmsifa.fileio.text_files import escape_path

if TYPE_CHECKING:
    from mmsifa.fileio.reencoding import Encoding

SUMMARY = 'prepare_videos.json'
SAMPLE = 8  # videos of which speed and quality are measured
CLIPS = 4  # of each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add('src', metavar='SRC', type=Path, help='folder, or list with "PATH LABEL" a line')
    add('dst', metavar='DST', type=Path, help='folder to make or to go on with')
    add('--data-root', help="folder of a list's paths (the current one)")
    add(
        '--delimiter',
        type=delimiter,
        default=' ',
        help=r"between the lists' columns, \t for a tab (a space)",
    )
    add('--multi-class', action='store_true', help='lines have several labels')
    add('--short-side', type=int, default=256, help='in pixels, at most (%(default)s)')
    add('--keyframe-interval', type=int, default=16, help='in frames (%(default)s)')
    add('--crf', type=int, default=18, help='loss, from 0, none, to 51 (%(default)s)')
    add('--workers', type=int, default=os.cpu_count(), help='videos at a time (one a core)')
    add('--timeout', type=float, default=3600, help='seconds for a video, then it is bad (3600)')
    add('--overwrite', action='store_true', help='replace lists that are there')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Prepare the videos that the arguments name; return the exit code."""
    from mmsifa.datasets.reading_process import each_in_process
    from mmsifa.fileio.reencoding import Encoding

    if args.workers < 1:
        parser.error(f'--workers must be 1 or more, got {args.workers}')
    if not args.timeout > 0:
        parser.error(f'--timeout must be above 0 seconds, got {args.timeout:g}')
    try:
        encoding = Encoding(args.short_side, args.keyframe_interval, args.crf)
        targets = find(args)
        open_folder(args.dst, encoding)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    folders = {target.parent for target in targets.values()}
    waiting = [source for source, target in targets.items() if not target.exists()]
    tasks = [(source, targets[source], encoding) for source in waiting]
    bad: dict[str, str] = {}
    start = time.monotonic()
    try:
        for folder in folders:
            remove_unfinished(folder)
        with (
            closing(each_in_process(prepare, tasks, args.workers, args.timeout)) as done,
            progress_bar() as progress,
        ):
            for task, failure in progress.track(done, len(tasks), description='Encoding'):
                if isinstance(failure, OSError):
                    parser.error(f'{failure}; what is done is kept, start again to go on')
                if failure:
                    bad[task[0]] = escape_path(str(failure))
                    print(f'{escape_path(task[0])}: {bad[task[0]]}', flush=True)
        seconds = time.monotonic() - start
        done_videos = {source: targets[source] for source in targets if source not in bad}
        sample = measure(done_videos, encoding, args.timeout)
    except KeyboardInterrupt:
        print('Interrupted; what is done is kept, start again to go on', file=sys.stderr)
        return 130
    finally:
        for folder in folders:
            remove_unfinished(folder)

    summary = {
        'encoding': asdict(encoding),
        'videos': len(targets),
        'encoded': len(waiting) - len(bad),
        'kept': len(targets) - len(waiting),
        'bad': len(bad),
        'seconds': round(seconds, 1),
        'bytes_before': sum(map(os.path.getsize, done_videos)),
        'bytes_after': sum(map(os.path.getsize, done_videos.values())),
        'sample': sample,
    }
    is_folder = args.src.is_dir()
    bad_file = args.dst / f'bad_{"videos.txt" if is_folder else args.src.name}'
    rows = ''.join(f'{escape_path(video)}\t{reason}\n' for video, reason in bad.items())
    failed = ''
    try:
        write_atomically(args.dst / SUMMARY, json.dumps(summary, indent=1) + '\n')
        write_atomically(bad_file, rows)
        print(described(summary) + (f'\nThe bad ones are in {bad_file}' if bad else ''))
        print((write_class_lists if is_folder else write_list)(args, done_videos))
    except FileExistsError as error:
        failed = f'No list was written: {error}, or is replaced with --overwrite'
    except (ValueError, OSError) as error:
        failed = f'No list was written: {error}'
    if failed:
        print(failed, file=sys.stderr)
    return 1 if bad or failed else 0


def find(args: argparse.Namespace) -> dict[str, Path]:
    """Return the videos that the arguments name, each with the file that it shall become."""
    from mmsifa.apis.prediction.scores import find_videos
    from mmsifa.datasets.annotations import read_annotations

    root = str(args.src) if args.src.is_dir() else args.data_root or '.'
    if args.src.is_dir():
        if args.data_root is not None:
            raise ValueError('--data-root is for lists, and SRC is a folder')
        inside = args.dst.resolve()
        if args.src.resolve() in (inside, *inside.parents):
            raise ValueError(f'DST must lie outside of SRC, got {args.dst} inside of {args.src}')
        videos = find_videos([args.src])
    else:
        options: dict[str, Any] = dict(delimiter=args.delimiter, multi_class=args.multi_class)
        samples, _ = read_annotations(args.src, root=root, labels_required=False, **options)
        videos = [os.path.normpath(sample['filename']) for sample in samples]
    sources: dict[Path, str] = {}
    for video in videos:
        target = args.dst / prepared_name(os.path.relpath(video, root))
        if sources.setdefault(target, video) != video:
            raise ValueError(
                f'{sources[target]} and {video} would both become {target}: rename one'
            )
    return {video: target for target, video in sources.items()}


def prepared_name(name: str) -> str:
    """Return the name of a prepared video: that of the source, with the ending ``.mp4``."""
    from mmsifa.datasets.class_folders import VIDEO_SUFFIXES

    stem, suffix = os.path.splitext(name)
    return f'{stem if suffix.lower() in VIDEO_SUFFIXES else name}.mp4'


def open_folder(folder: Path, encoding: Encoding) -> None:
    """Make a folder for prepared videos, or see that one holds those of the same encoding."""
    stored, wanted = folder / SUMMARY, asdict(encoding)
    remove_unfinished(folder)
    if stored.is_file():
        try:
            found = json.loads(stored.read_text('utf-8'))['encoding']
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f'{stored} is not of this command: name another folder') from error
        if found != wanted:
            raise ValueError(f'{folder} holds videos of {found}, not {wanted}: name another folder')
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f'{folder} has files and no {SUMMARY}: name a new folder')
    check_writable(stored)
    if not stored.exists():
        write_atomically(stored, json.dumps({'encoding': wanted}) + '\n')


def prepare(source: str, target: Path, encoding: Encoding) -> Iterator[str | OSError | None]:
    """Encode a video; yield None, why it is bad, or why its target cannot be written."""
    from mmsifa.fileio.reencoding import reencode
    from mmsifa.fileio.video import UnreadableVideoError

    try:
        reencode(source, target, encoding)
    except UnreadableVideoError as error:
        yield str(error)
    except OSError as error:
        yield error
    else:
        yield None


def measure(videos: dict[str, Path], encoding: Encoding, timeout: float) -> dict | None:
    """Compare some videos with what they became; return the means, None without videos."""
    import numpy as np

    from mmsifa.datasets.reading_process import each_in_process

    places = np.linspace(0, len(videos) - 1, min(SAMPLE, len(videos))).round().astype(int)
    pairs = [list(videos.items())[place] for place in places]
    tasks = [(*pair, encoding) for pair in pairs]
    with closing(each_in_process(compare, tasks, 1, timeout)) as results, progress_bar() as bar:
        tracked = bar.track(results, len(tasks), description='Measuring')
        found = [result for _, result in tracked if not isinstance(result, Exception)]
    if not found:
        return None
    before, after, psnr = np.mean(found, 0).round(2).tolist()
    return {
        'videos': len(found),
        'clip': '16 frames, every 4th',
        'cpu_ms_before': before,
        'cpu_ms_after': after,
        'psnr_db': psnr,
    }


def compare(source: str, target: Path, encoding: Encoding) -> Iterator[tuple[float, float, float]]:
    """Yield CPU milliseconds to open a video and decode a clip, before and after, and the PSNR."""
    import cv2
    import numpy as np

    from mmsifa.datasets.reading_process import Stopwatch
    from mmsifa.fileio.reencoding import UprightFrames
    from mmsifa.fileio.video import VideoReader

    old, new = VideoReader(source), VideoReader(target)
    times: dict[Any, list[float]] = {source: [], target: []}
    for share in np.random.default_rng(0).random(CLIPS):
        first = int(share * max(1, len(old) - 60))
        clip = np.minimum(np.arange(first, first + 64, 4), len(old) - 1)
        for video, taken in times.items():
            with Stopwatch() as watch:
                VideoReader(video).get_batch(clip)
            taken.append(watch.cpu)
    frames = UprightFrames(old, encoding)
    psnr = [
        cv2.PSNR(*(frame.to_ndarray()[: frame.height] for frame in (frames[i], new.decoded(i))))
        for i in np.linspace(0, len(old) - 1, min(8, len(old))).astype(int)
    ]
    before, after = (float(np.median(taken)) for taken in times.values())
    yield before, after, float(np.median(psnr))


def described(summary: dict[str, Any]) -> str:
    """Return a summary in words."""
    before, after = (summary[f'bytes_{when}'] / 2**20 for when in ('before', 'after'))
    lines = [
        '{videos} videos: {encoded} encoded, {kept} there before, {bad} bad'.format(**summary),
        f'{before:.1f} MiB became {after:.1f} MiB in {summary["seconds"]:.0f} s',
    ]
    if sample := summary['sample']:
        lines += [
            'A core decodes a clip ({clip}) in {cpu_ms_after:.0f} ms, before in '
            '{cpu_ms_before:.0f} ms (mean of {videos} videos)'.format(**sample),
            f'PSNR {sample["psnr_db"]:.1f} dB against the sources, scaled alike',
        ]
    return '\n'.join(lines)


def write_list(args: argparse.Namespace, done: dict[str, Path]) -> str:
    """Write the lines of the list whose videos are done; return a sentence on it."""
    from mmsifa.datasets.annotations import annotation_lines
    from mmsifa.datasets.class_folders import write_new

    text = ''
    for _, line in annotation_lines(args.src):
        path, *labels = str(line).split(args.delimiter)
        video = os.path.normpath(os.path.join(args.data_root or '.', path))
        if video in done:
            name = done[video].relative_to(args.dst).as_posix()
            text += args.delimiter.join((name, *labels)) + '\n'
    file = args.dst / args.src.name
    write_new({file: text}, args.overwrite)
    return f'The list is {file}'


def write_class_lists(args: argparse.Namespace, done: dict[str, Path]) -> str:
    """Write the lists of make-lists where the folders are classes; return a sentence on them."""
    from mmsifa.datasets import split_class_folders, write_lists

    try:
        split = split_class_folders(args.dst)
    except ValueError as error:
        return f'No list was written, since the folders are no classes ({error})'
    write_lists(split, args.dst, args.delimiter, args.overwrite)
    return f'Lists of {len(split.classes)} classes are in {args.dst}, as of make-lists'
