"""Name what happens in videos.

Prints the five best classes of a trained recognizer for each video. It is scored as in testing,
with the clips and crops of the config, or with --sliding each window of it. Exit code 0 says that
all videos were scored, 1 that some were not or not all of them, or an output was not written, 2
that the arguments are wrong, 3 that the model ran out of memory, 130 that it was interrupted. What
comes of a video is written as soon as it is there.

Example:
    mmsifa predict videos/ --config sifa_r50_k400 --checkpoint epoch_50.pth
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmsifa.commands.options import add_recognizer_arguments
from mmsifa.fileio.atomic_write import check_writable
from mmsifa.fileio.text_files import escape_path

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mmsifa.apis import ResultTable, VideoResult

TABLES = ('.csv', '.jsonl')
OUTPUTS = (*TABLES, '.mp4', '.png')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add('videos', nargs='+', metavar='VIDEO_OR_FOLDER', help='folders are searched for videos')
    add_recognizer_arguments(parser)
    add(
        '--out',
        type=Path,
        action='append',
        default=[],
        help='file to write, of one of the kinds .csv, .jsonl, .mp4 (the video with the classes '
        'drawn) and, with --sliding, .png (the timeline); may be given several times',
    )
    add('--sliding', type=float, metavar='SECONDS', help='predict each window of this length')
    add(
        '--stride', type=float, metavar='SECONDS', help='from window to window; default: its length'
    )
    add('--batch-size', type=int, help='videos or windows at a time; default: that of testing')
    add('--amp', action='store_true', help='compute in mixed precision')


def check_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Find the videos, and end with an error if an argument is wrong."""
    from mmsifa.apis import find_videos

    try:
        args.videos = find_videos(args.videos)
        check_outputs(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if args.batch_size is not None and args.batch_size < 1:
        parser.error(f'--batch-size must be 1 or more, got {args.batch_size}')
    for option in ('sliding', 'stride'):
        if (value := getattr(args, option)) is not None and not 0 < value < float('inf'):
            parser.error(f'--{option} must be above 0 seconds, got {value:g}')
    if args.stride and not args.sliding:
        parser.error('--stride needs --sliding, the length of the windows')


def check_outputs(args: argparse.Namespace) -> None:
    """Raise an error if an output cannot be written from these videos."""
    files = filter(None, (*args.videos, args.labels, args.config, args.checkpoint))
    read = {Path(file).resolve() for file in files}
    for path in args.out:
        kind = path.suffix.lower()
        if kind not in OUTPUTS:
            raise ValueError(f'--out {path} has no known ending: expected {", ".join(OUTPUTS)}')
        if kind in ('.mp4', '.png') and len(args.videos) > 1:
            raise ValueError(f'--out {path} is of one video, got {len(args.videos)} videos')
        if kind == '.png' and not args.sliding:
            raise ValueError(f'--out {path}, a timeline, needs --sliding SECONDS')
        if path.resolve() in read:
            raise ValueError(f'--out {path} is one of the files to read')
        check_writable(path)
    if len({path.resolve() for path in args.out}) < len(args.out):
        raise ValueError('each --out must be another file')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Predict what the arguments name; return the exit code."""
    try:
        return prepare_and_predict(args, parser)
    except KeyboardInterrupt:
        print('Interrupted', file=sys.stderr)
        return 130


def prepare_and_predict(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Check the arguments, load the network and predict."""
    from rich.console import Console

    from mmsifa.apis import (
        ResultTable,
        class_names,
        default_device,
        load_config,
        load_recognizer,
        video_pipeline,
    )
    from mmsifa.checkpoints.load import CheckpointError

    check_arguments(args, parser)
    try:
        config = load_config(args.config, args.cfg_options)
        _, note = video_pipeline(config, windows=bool(args.sliding))
        names, source = class_names(config, args.labels)
        model = load_recognizer(config, args.checkpoint, args.device or default_device())
        tables = [ResultTable(path, names) for path in args.out if path.suffix.lower() in TABLES]
    except (ValueError, CheckpointError, OSError) as error:
        parser.error(str(error))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, soft_wrap=True, width=160)
    notes = [note, f'Class names: {source}', batch_note(args, config)]
    notes += [
        f'{escape_path(table.path)}: until all is done, {escape_path(table.unfinished.name)} has it'
        for table in tables
    ]
    console.print('\n'.join(line for line in notes if line))
    return predict(args, model, names, Outputs(args, names, tables, console))


def batch_note(args: argparse.Namespace, config: Config) -> str | None:
    """Return a sentence if the config takes no batches and some were asked for."""
    if (args.batch_size or 1) > 1 and (config.model.get('test_cfg') or {}).get('max_testing_views'):
        return '--batch-size is 1, since the config has max_testing_views, a limit for one video'
    return None


class Outputs:
    """The files that a run writes; one that cannot be written costs no other."""

    def __init__(
        self,
        args: argparse.Namespace,
        names: list[str],
        tables: list[ResultTable],
        console: Console,
    ):
        self.args = args
        self.names = names
        self.tables = tables
        self.console = console
        self.failed = False
        self.root = os.path.commonpath([Path(video).absolute().parent for video in args.videos])

    def add(self, result: VideoResult, complete: bool) -> None:
        """Append what is new of a result to the tables."""
        for table in list(self.tables):
            if not self._try(table.path, partial(table.add, result, complete)):
                self.tables.remove(table)
                self._say_unfinished(table)

    def draw(self, result: VideoResult, show: Callable[[int, int], None]) -> None:
        """Draw the timeline and the annotated video of a result."""
        from mmsifa.apis import annotate_video, draw_timeline

        pictures = [path for path in self.args.out if path.suffix.lower() == '.png']
        if self.args.sliding and not pictures:
            folder = self.args.out[0].parent if self.args.out else Path()
            name = os.path.relpath(result.video, self.root).replace(os.sep, '_')
            pictures = [folder / f'{name}.timeline.png']
        for path in pictures:
            self._try(path, partial(draw_timeline, path, result, self.names), 'timeline')
        for path in self.args.out:
            if path.suffix.lower() == '.mp4':
                self._try(path, partial(annotate_video, path, result, self.names, show), 'video')

    def close(self) -> None:
        """Give the tables their names."""
        for table in self.tables:
            self._try(table.path, table.close, 'table')

    def leave(self) -> None:
        """Say where the rows of the tables are, which are not whole."""
        for table in self.tables:
            self._say_unfinished(table)

    def _say_unfinished(self, table: ResultTable) -> None:
        self.console.print(f'What came before is in {escape_path(table.unfinished)}')

    def _try(self, path: Path, write: Callable[[], None], what: str = '') -> bool:
        """Write something, and say what it is, or why it is not there."""
        try:
            write()
        except (OSError, RuntimeError, ValueError) as error:
            self.console.print(f'{escape_path(path)} was not written: {error}', style='red')
            self.failed = True
            return False
        if what:
            self.console.print(f'{escape_path(path)}: the {what}')
        return True


def predict(
    args: argparse.Namespace, model: torch.nn.Module, names: list[str], outputs: Outputs
) -> int:
    """Predict the videos, print and write what comes of each, and return the exit code."""
    import torch
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from mmsifa.apis import predict_videos

    sliding = (args.sliding, args.stride or args.sliding) if args.sliding else None
    console = outputs.console
    columns = [
        *(TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn()),
        *(TimeRemainingColumn(), TextColumn('left')),
    ]
    code = read = failed = 0
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        files = progress.add_task('Videos', total=len(args.videos))
        part = progress.add_task('Windows', visible=False)

        def on_window(result: VideoResult) -> None:
            outputs.add(result, complete=False)
            if result.windows > 1:
                show_part(progress, part, 'Windows', len(result.predictions), result.windows)

        try:
            for result in predict_videos(
                model, args.videos, sliding, args.batch_size, args.amp, on_window
            ):
                read += not result.error
                failed += bool(result.error)
                print_result(result, names, console)
                outputs.add(result, complete=True)
                if result.predictions:
                    outputs.draw(result, partial(show_part, progress, part, 'Frames'))
                progress.update(part, visible=False)
                progress.advance(files)
        except KeyboardInterrupt:
            console.print('Interrupted')
            code = 130
        except torch.OutOfMemoryError as error:
            console.print(
                f'Out of memory: {str(error).splitlines()[0]} A smaller --batch-size or '
                '--cfg-options model.test_cfg.max_testing_views=6 needs less'
            )
            code = 3
        except BaseException:
            outputs.leave()
            raise
    outputs.close()
    if failed or code:
        console.print(f'{read} of {len(args.videos)} videos were scored')
    return code or int(failed > 0 or outputs.failed)


def show_part(progress: Progress, task: TaskID, what: str, done: int, total: int) -> None:
    """Show how far a video is."""
    progress.update(task, description=what, completed=done, total=total, visible=True)


def print_result(result: VideoResult, names: list[str], console: Console) -> None:
    """Print a table of the five best classes, or of the best one along the video."""
    from rich.table import Table
    from rich.text import Text

    from mmsifa.apis.prediction.timeline import best_runs, clock

    console.print(escape_path(result.video), style='bold')
    table = Table.grid(padding=(0, 2))
    if result.windows and result.predictions and result.predictions[0].window:
        for start, end, index, score in best_runs(result.predictions):
            times = f'{clock(start)} - {clock(end)}'
            table.add_row('', times, f'{100 * score:5.1f} %', Text(names[index]))
    elif result.predictions:
        for index, score in result.predictions[0].top():
            table.add_row('', f'{100 * score:5.1f} %', Text(names[index]))
    if table.row_count:
        console.print(table, soft_wrap=False)
    if result.error:
        console.print(f'  cannot be scored: {result.error}', style='red')
