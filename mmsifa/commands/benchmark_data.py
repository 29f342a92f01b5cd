"""Measure how fast clips load, and where the time goes.

Runs the training pipeline of a config, of videos or raw frames, for any MMAction2 recognizer:
what each step takes, clips a second by the number of worker processes, and whether the memory of a
process grows. Says what to do about it. --out also writes the numbers and a picture of the steps.

Example:
    mmsifa benchmark-data sifa_r50_k400 --clips-per-second 300 --out costs.json
    mmsifa benchmark-data config.py list.txt --data-root . --measure-training
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mmsifa.commands.options import ConfigOptions, progress_bar
from mmsifa.commands.prepare_videos import SUMMARY
from mmsifa.fileio.atomic_write import check_writable, write_atomically

QUARTERS = 4
WHOLE = 'whole clip'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add('config', metavar='CONFIG', help='a file, sifa_r50_k400, mmaction::recognition/...')
    add('list', metavar='LIST', nargs='?', help="annotation list (the config's)")
    add('--data-root', help="folder of the list's paths (the config's)")
    add('--clips', type=int, default=2000, help='clips to time the steps of (%(default)s)')
    add('--workers', type=int, nargs='+', help='numbers of workers (0, 1, 2, 4, ... cores)')
    add('--seconds', type=float, default=10, help='for each number of workers (%(default)s)')
    training = parser.add_mutually_exclusive_group()
    training.add_argument('--clips-per-second', type=float, help='that the training takes')
    training.add_argument(
        '--measure-training',
        action='store_true',
        help="measure them: the config's training step and batch, for --seconds at least",
    )
    add('--out', type=Path, help='NAME.json to write, with NAME.png beside it')
    add('--cfg-options', nargs='+', action=ConfigOptions, help='changes of the config, KEY=VALUE')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Measure, print and write."""
    import cv2

    from mmsifa.apis import load_config

    cores = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count() or 1
    workers = args.workers or [0, *(2**power for power in range(cores.bit_length()))]
    for name, least in (('clips', QUARTERS), ('seconds', 0), ('clips_per_second', 0)):
        value = getattr(args, name)
        if value is not None and not least <= value < math.inf:
            parser.error(f'--{name.replace("_", "-")} must be {least} or more, got {value:g}')
    if min(workers) < 0:
        parser.error(f'--workers must be 0 or more, got {min(workers)}')
    picture = args.out and args.out.with_suffix('.png')
    if args.out and args.out == picture:
        parser.error(f'--out must be the name of a JSON file, got {args.out}')
    try:
        for path in filter(None, (args.out, picture)):
            check_writable(path)
        config = load_config(args.config, args.cfg_options)
        data, folders = training_data(args, config)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a package is missing
        parser.error(str(error))

    cv2.setNumThreads(0)  # as MMEngine does for training
    try:
        report = step_costs(data, args.clips)
        report['loaders'] = loaders(data, workers, args.seconds)
        if args.measure_training:
            report['training'] = training_speed(config, report['shape'], args.seconds)
            args.clips_per_second = report['training']['clips_per_second']
    except (RuntimeError, ValueError, OSError) as error:  # of a video, a worker, the network
        said = str(error).strip().splitlines()[-1]
        parser.exit(1, f'{parser.prog}: {said}\n')
    except KeyboardInterrupt:
        return 130
    prepared = any(Path(folder, SUMMARY).exists() for folder in folders)
    report |= {'config': args.config, 'cores': cores, 'prepared': prepared}
    if args.clips_per_second:
        report['training_clips_per_second'] = args.clips_per_second
        for loader in report['loaders']:
            share = 1 - loader['clips_per_second'] / args.clips_per_second
            loader['training_waits'] = round(max(0, share), 3)
    report['advice'] = advice(report)
    print(table(report), *report['advice'], sep='\n')
    if args.out:
        write_atomically(args.out, json.dumps(report, indent=1) + '\n')
        draw(report, picture)
    return 0


def training_data(args: argparse.Namespace, config: Any) -> tuple[Any, list[str]]:
    """Build the training data that the arguments name; return it and the folders of its files."""
    from mmaction.registry import DATASETS
    from mmengine.registry import DefaultScope

    from mmsifa.fileio.config_files import config_errors

    with config_errors():
        dataset = inner = config.train_dataloader.dataset
        while 'dataset' in inner:  # one that repeats another
            inner = inner.dataset
        if args.list:
            inner.ann_file = args.list
        if args.data_root is not None:
            inner.data_prefix = dict.fromkeys(inner.get('data_prefix', ['video']), args.data_root)
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmaction')):
            data = DATASETS.build(dataset)
    if not len(data):
        raise ValueError(f'{inner.get("ann_file")} lists no videos')
    return data, [str(folder) for folder in inner.get('data_prefix', {}).values()]


def step_costs(data: Any, clips: int) -> dict[str, Any]:
    """Load clips in a process of its own; return what their steps take, and its memory."""
    import numpy as np

    from mmsifa.datasets.reading_process import ReadingProcess

    with closing(ReadingProcess(timed_clips, data, clips)) as process, progress_bar() as bar:
        rows = list(bar.track(process, clips, description='Timing the steps'))
    times, memory, shapes = zip(*rows, strict=True)
    floors = [float(part.min()) for part in np.array_split(memory, QUARTERS)]
    growth = 1000 * (floors[-1] - floors[0]) / (clips * (QUARTERS - 1) / QUARTERS)
    return {
        'clips': clips,
        'shape': shapes[0],
        'steps': step_times(times),
        'memory': {
            'least_mib_of_each_quarter': [round(floor, 1) for floor in floors],
            'mib_per_1000_clips': round(growth, 1),
            'grows': bool((np.diff(floors) > 1).all()),
        },
    }


def step_times(rows: Sequence[dict[str, tuple]]) -> list[dict[str, Any]]:
    """Return mean, median and 95th percentile of what each step takes, by the times of clips."""
    import numpy as np

    times = np.array([list(row.values()) for row in rows])  # (clips, steps, wall and CPU)
    return [
        {'step': name}
        | {
            f'{clock}_ms': {
                'mean': round(float(values.mean()), 3),
                'median': round(float(np.median(values)), 3),
                'p95': round(float(np.percentile(values, 95)), 3),
            }
            for clock, values in zip(('wall', 'cpu'), times[:, place].T, strict=True)
        }
        for place, name in enumerate(rows[0])
    ]


def timed_clips(data: Any, clips: int) -> Iterator[tuple[dict[str, tuple], float, tuple]]:
    """Yield for each of some random clips its steps' milliseconds, the memory in MiB, its shape."""
    import numpy as np

    from mmsifa.datasets.reading_process import Stopwatch, failure_of
    from mmsifa.fileio.text_files import escape_path
    from mmsifa.fileio.video import UnreadableVideoError

    steps: list[TimedStep] = []
    for pipeline in pipelines(data):
        pipeline.transforms = [TimedStep(step) for step in pipeline.transforms]
        steps += pipeline.transforms
    names = [f'{place} {step.name}' for place, step in enumerate(steps, 1)]
    rng = np.random.default_rng(0)
    for number, index in enumerate(rng.integers(len(data), size=clips).tolist()):
        np.random.seed(number)  # noqa: NPY002  (what transforms draw from)
        for step in steps:
            step.watch = Stopwatch()
        try:
            with Stopwatch() as whole:
                clip = data[index]
        except UnreadableVideoError:
            raise
        except Exception as error:
            video = escape_path(next((step.video for step in steps if step.video), f'clip {index}'))
            raise UnreadableVideoError(f'{video} does not load ({failure_of(error)})') from error
        taken = [(step.watch.wall, step.watch.cpu) for step in steps]
        times = dict(zip([*names, WHOLE], [*taken, (whole.wall, whole.cpu)], strict=True))
        yield times, used_memory() / 2**20, tuple(clip['inputs'].shape)


def used_memory() -> int:
    """Return the bytes that this process has in memory (outside of Linux: the most it had)."""
    if sys.platform == 'linux':
        return int(Path('/proc/self/statm').read_text().split()[1]) * mmap.PAGESIZE
    import torch

    from mmsifa.apis.analysis.measurement import peak_memory

    return peak_memory(torch.device('cpu'))


def pipelines(data: Any) -> Iterator[Any]:
    """Yield the pipelines of a data set and of those inside of it."""
    if hasattr(data, 'pipeline'):
        yield data.pipeline
    inner = [data.dataset] if hasattr(data, 'dataset') else getattr(data, 'datasets', [])
    for part in inner:
        yield from pipelines(part)


class TimedStep:
    """A step of a pipeline that measures how long it takes."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.watch: Any = None
        self.video = ''
        inside = ', '.join(type(part).__name__ for part in getattr(step, 'transforms', []))
        self.name = type(step).__name__ + (f'({inside})' if inside else '')

    def __call__(self, results: dict) -> dict | None:
        """Run the step."""
        self.video = results.get('filename') or results.get('frame_dir') or ''
        with self.watch:
            return self.step(results)


def loaders(data: Any, numbers: list[int], seconds: float) -> list[dict[str, float]]:
    """Return how many clips a second numbers of worker processes load."""
    import time

    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader, RandomSampler

    endless = RandomSampler(data, replacement=True, num_samples=2**40)
    found = []
    with progress_bar() as bar:
        for number in bar.track(numbers, description='Loading'):
            batches = iter(
                DataLoader(data, 1, sampler=endless, num_workers=number, collate_fn=pseudo_collate)
            )
            for _ in range(1 + 2 * number):  # all that workers prefetch
                next(batches)
            start, clips, elapsed = time.perf_counter(), 0, 0.0
            while elapsed <= seconds:
                next(batches)
                clips += 1
                elapsed = time.perf_counter() - start
            found.append({'workers': number, 'clips_per_second': round(clips / elapsed, 2)})
            del batches
    return found


def training_speed(config: Any, shape: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Run the config's training step on random clips, on a GPU if there is one."""
    import time

    import torch

    from mmsifa.apis.analysis import MeasuredNetwork
    from mmsifa.fileio.config_files import config_errors

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    mixed = config.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper'
    dtype, size = 'bfloat16' if mixed else 'float32', config.train_dataloader.batch_size
    with progress_bar() as bar:
        bar.add_task('Training', total=None)
        with config_errors():
            network = MeasuredNetwork(config, shape, device, dtype, size)
        network.training_step()  # warms up
        start, clips, elapsed = time.perf_counter(), 0, 0.0
        while not clips or elapsed < seconds:
            network.training_step()
            clips += size
            elapsed = time.perf_counter() - start
    speed = round(clips / elapsed, 2)
    return {'device': device, 'dtype': dtype, 'batch_size': size, 'clips_per_second': speed}


def advice(report: dict[str, Any]) -> list[str]:
    """Return what follows from the numbers, a sentence each."""
    *steps, whole = report['steps']
    cpu = whole['cpu_ms']['mean']

    def share(*names: str) -> float:
        found = [step for step in steps if any(name in step['step'] for name in names)]
        return sum(step['cpu_ms']['mean'] for step in found) / cpu

    said = [f'A core loads {1000 / cpu:.1f} clips a second']
    if step := report.get('training'):
        said.append(
            f'A training step takes {step["batch_size"]} clips, {step["clips_per_second"]:g} a '
            f'second ({step["device"]}, {step["dtype"]})'
        )
    if wanted := report.get('training_clips_per_second'):
        said.append(f'{wanted:g} clips a second take {math.ceil(wanted * cpu / 1000)} cores')
        enough = [each['workers'] for each in report['loaders'] if not each['training_waits']]
        best = min(report['loaders'], key=lambda each: each['training_waits'])
        said.append(
            f'Workers that suffice: {min(enough)}'
            if enough
            else f'With {best["workers"]} workers the training waits for '
            f'{best["training_waits"]:.0%} of the time'
        )
    pictures = share('RawFrameDecode')
    if pictures > 0.5:
        said.append(f'Reading pictures is {pictures:.0%}: smaller ones load faster')
    elif (videos := share('Init', 'Decode')) > 0.5:
        see = ', of prepared videos' if report['prepared'] else ': see mmsifa prepare-videos'
        said.append(f'Decoding is {videos:.0%}{see}')
    if (colours := share('ColorJitter', 'ClipGrayscale', 'ClipGaussianBlur')) > 0.2:
        said.append(f'Color jitter, grey and blur are {colours:.0%}: see ClipAugmentation')
    memory = report['memory']
    if memory['grows']:
        said.append(f'A process grows by {memory["mib_per_1000_clips"]:.0f} MiB in 1,000 clips')
    return said


def table(report: dict[str, Any]) -> str:
    """Return the numbers as text."""
    width = max(len(step['step']) for step in report['steps'])
    lines = [
        f'{"of a clip, ms":{width}}   wall  median     95%     CPU  median     95%   share',
    ]
    total = report['steps'][-1]['wall_ms']['mean']
    for step in report['steps']:
        values = [step[clock][name] for clock in ('wall_ms', 'cpu_ms') for name in step[clock]]
        numbers = ' '.join(f'{value:7.2f}' for value in values)
        lines.append(f'{step["step"]:{width}}{numbers} {values[0] / total:7.0%}')
    lines.append(
        'workers  clips/s' + '  training waits' * ('training_waits' in report['loaders'][0])
    )
    for each in report['loaders']:
        waits = f'{each["training_waits"]:16.0%}' if 'training_waits' in each else ''
        lines.append(f'{each["workers"]:7} {each["clips_per_second"]:8.1f}{waits}')
    memory = ', '.join(f'{mib:.0f}' for mib in report['memory']['least_mib_of_each_quarter'])
    lines.append(f'Least MiB of a process in each quarter of {report["clips"]} clips: {memory}')
    return '\n'.join(lines)


def draw(report: dict[str, Any], file: Path) -> None:
    """Draw what the steps take, stacked."""
    from io import BytesIO

    from matplotlib import colormaps
    from matplotlib.figure import Figure

    *steps, whole = report['steps']
    figure = Figure(figsize=(9, 3.5), layout='constrained')
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps['tab20'](range(20)))
    left = {'wall_ms': 0.0, 'cpu_ms': 0.0}
    rest = {
        clock: {'mean': whole[clock]['mean'] - sum(step[clock]['mean'] for step in steps)}
        for clock in left
    }
    for step in [*steps, {'step': 'rest', **rest}]:
        widths = [max(0, step[clock]['mean']) for clock in left]
        axes.barh(['wall', 'CPU'], widths, left=[*left.values()], label=step['step'])
        left = dict(zip(left, map(sum, zip(left.values(), widths, strict=True)), strict=True))
    axes.set_xlabel(f'milliseconds of a clip, mean of {report["clips"]}')
    axes.set_title(report['config'])
    axes.invert_yaxis()
    figure.legend(loc='outside right upper', fontsize='small')
    picture = BytesIO()
    figure.savefig(picture, dpi=150)
    write_atomically(file, picture.getvalue())
