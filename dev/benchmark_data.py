"""Time how Kinetics clips load: by MMAction2's transforms, by ours, and by ours prepared.

VIDEOS is a folder with a few videos; MMAction2's demo videos are meant. Files of H.264 with a short
side of 256 pixels at most are taken as they are, since Kinetics has such. The others are encoded
like them (340 x 256, a key frame every 250 frames); those of 720 pixels or more are timed as they
are, too. The contestants take turns, clip by clip, with the same frames and crops. Writes OUT.json,
and OUT.md from it. MMAction2's grey and blur need torchvision.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
from mmaction.registry import DATASETS
from mmengine.registry import DefaultScope

from mmsifa.__main__ import main as mmsifa
from mmsifa.apis import load_config
from mmsifa.apis.analysis import processor_name
from mmsifa.commands.benchmark_data import loaders, step_times, timed_clips
from mmsifa.commands.prepare_videos import SUMMARY
from mmsifa.datasets.reading_process import ReadingProcess
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import table
from mmsifa.fileio.video import VideoReader

CONFIG = 'sifa_r50_k400'
WANTED = 300  # clips a second
ROUNDS = 3
PARTS, GREY = ('reading', 'jitter', 'grey and blur', 'rest'), 2


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('videos', type=Path, help='folder')
    parser.add_argument('out', type=Path, help='where to write, without .json and .md')
    parser.add_argument('--clips', type=int, default=120, help='clips to time the steps of (120)')
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2], help='(1 2)')
    parser.add_argument('--seconds', type=float, default=3, help='of each in a round (3)')
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as MMEngine does for training
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {
            'config': CONFIG,
            'processor': processor_name(),
            'cores': len(os.sched_getaffinity(0)),
            'date': date.today().isoformat(),
            'versions': {name: version(name) for name in ('mmsifa', 'av', 'decord2', 'torch')},
            'clips': args.clips,
            'sources': [
                {'source': source, **measure(videos, args)}
                for source, videos in make_sources(args.videos, Path(folder)).items()
            ],
        }
    report['load_averages'] = [round(load, 1), round(os.getloadavg()[0], 1)]
    write_atomically(args.out.with_suffix('.json'), json.dumps(report, indent=1) + '\n')
    write_atomically(args.out.with_suffix('.md'), page(report))


def make_sources(videos: Path, folder: Path) -> dict[str, Path]:
    """Return folders with the videos as Kinetics has them and, if there are any, large ones."""
    small, large = folder / 'small', folder / 'large'
    small.mkdir()
    for number, video in enumerate(sorted(videos.iterdir())):
        if video.suffix not in ('.mp4', '.avi'):
            continue
        reader = VideoReader(video)
        short = min(reader.stream.width, reader.stream.height)
        if reader.stream.codec_context.name == 'h264' and short <= 256:
            (small / f'{number}.mp4').symlink_to(video.resolve())
        else:
            encode_like_kinetics(reader, small / f'{number}.mp4')
        if short >= 720:
            large.mkdir(exist_ok=True)
            (large / f'{number}.mp4').symlink_to(video.resolve())
    found = {'Short side of 256 at most, a key frame every 250 frames': small}
    return found | ({'Short side of 720 or more': large} if large.exists() else {})


def encode_like_kinetics(reader: VideoReader, target: Path) -> None:
    """Write the frames of a video as H.264 of x264's defaults."""
    with av.open(str(target), 'w') as container:
        stream: Any = container.add_stream('libx264', round(reader.get_avg_fps()), {'g': '250'})
        stream.width, stream.height, stream.pix_fmt = 340, 256, 'yuv420p'
        for image in reader:
            frame = av.VideoFrame.from_ndarray(image).reformat(340, 256, 'yuv420p')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure(videos: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prepare a folder of videos and let the contestants take turns in loading their clips."""
    prepared = videos.with_name(f'{videos.name}_prepared')
    if mmsifa(['prepare-videos', str(videos), str(prepared)]):
        raise RuntimeError(f'{videos} cannot be prepared')
    steps = load_config(CONFIG).train_pipeline
    contestants = {
        'MMAction2': data_set('VideoDataset', videos, [upstream(step) for step in steps]),
        'mmsifa': data_set('CheckedVideoDataset', videos, steps),
        'mmsifa, prepared': data_set('CheckedVideoDataset', prepared, steps),
    }
    with closing(ReadingProcess(in_turns, list(contestants.values()), args.clips)) as process:
        times = list(zip(*process, strict=True))
    speeds: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, data in contestants.items():
            found = loaders(data, args.workers, args.seconds)
            speeds[name].append([each['clips_per_second'] for each in found])
    return {
        'videos': len(list(videos.iterdir())),
        'prepared': json.loads((prepared / SUMMARY).read_text()),
        'contestants': [
            {
                'name': name,
                'steps': step_times(list(rows)),
                'loaders': [
                    {'workers': workers, 'clips_per_second': median(rounds)}
                    for workers, *rounds in zip(args.workers, *speeds[name], strict=True)
                ],
            }
            for name, rows in zip(contestants, times, strict=True)
        ],
    }


def data_set(kind: str, folder: Path, steps: list[dict]) -> Any:
    """Return a data set of the videos of a folder."""
    names = sorted(video.name for video in folder.glob('*.mp4'))
    listed = folder.with_suffix('.txt')
    listed.write_text(''.join(f'{name} 0\n' for name in names))
    with DefaultScope.overwrite_default_scope('mmaction'):
        return DATASETS.build(
            dict(
                type=kind, ann_file=str(listed), data_prefix=dict(video=str(folder)), pipeline=steps
            )
        )


def upstream(step: dict) -> dict:
    """Return the step of MMAction2 that does what a step of ours does."""
    match step['type']:
        case 'RandomApply':
            return dict(step, transforms=[upstream(inner) for inner in step['transforms']])
        case 'DecordInit' | 'DecordDecode':
            return dict(step, type=f'Upstream{step["type"]}')
        case 'ClipColorJitter':
            return dict(step, type='ColorJitter')
        case 'ClipGrayscale':
            return dict(type='TorchVisionWrapper', op='Grayscale', num_output_channels=3)
        case 'ClipGaussianBlur':
            blur = dict(type='TorchVisionWrapper', op='GaussianBlur', kernel_size=13)
            return blur | {'sigma': step['sigma']}
    return dict(step)


def in_turns(contestants: list[Any], clips: int) -> Iterator[list[dict[str, tuple]]]:
    """Yield for each clip the times of the steps of each contestant."""
    for rows in zip(*(timed_clips(data, clips) for data in contestants), strict=True):
        yield [times for times, _, _ in rows]


def page(report: dict[str, Any]) -> str:
    """Return what was measured as a page."""
    text = '# Loading of Kinetics clips, timed\n\n'
    loads = [str(load) for load in report['load_averages']]
    text += (
        f'{report["processor"]}, {report["date"]}, '
        + ', '.join(f'{name} {number}' for name, number in report['versions'].items())
        + f'. Training pipeline of `{report["config"]}`; CPU milliseconds for a clip of 16 frames, '
        f'means of {report["clips"]} clips that all loaded in turns. MMAction2 has its own steps, '
        "decord, and torchvision's grey and blur. Prepared videos are those of `prepare-videos`; "
        'colours on the GPU are jitter, grey and blur by `ClipAugmentation`. Workers share '
        f'{report["cores"]} cores with all else that runs: the load average was '
        f'{" before and ".join(loads)} after.\n'
    )
    workers = [each['workers'] for each in report['sources'][0]['contestants'][0]['loaders']]
    cost_head = ['CPU ms of a clip', *PARTS, 'whole', 'times', f'times without {PARTS[GREY]}']
    speed_head = ['clips/s', 'a core', 'a core, colours on the GPU']
    speed_head += [f'workers: {number}' for number in workers] + [f'cores for {WANTED}']
    for source in report['sources']:
        costs: list[list[str]] = []
        speeds: list[list[str]] = []
        for each in source['contestants']:
            *steps, whole = (step['cpu_ms']['mean'] for step in each['steps'])
            parts = [sum(steps[:3]), steps[5], sum(steps[6:8])]
            parts.append(whole - sum(parts))
            some = whole - parts[GREY]
            if not costs:
                first = whole, some
            numbers = [1000 / whole, 1000 / (parts[0] + parts[-1])]
            numbers += [loader['clips_per_second'] for loader in each['loaders']]
            costs.append([each['name'], *(f'{number:.1f}' for number in (*parts, whole))])
            costs[-1] += [f'{first[0] / whole:.2f}', f'{first[1] / some:.2f}']
            speeds.append([each['name'], *(f'{number:.1f}' for number in numbers)])
            speeds[-1].append(str(math.ceil(WANTED * whole / 1000)))
        prepared = source['prepared']
        before, after = (prepared[f'bytes_{when}'] / 2**20 for when in ('before', 'after'))
        text += (
            f'\n## {source["source"]}\n\n{table(cost_head, costs)}\n{table(speed_head, speeds)}\n'
            f'{prepared["videos"]} videos, prepared in {prepared["seconds"]:.0f} s: '
            f'{before:.1f} MiB before, {after:.1f} MiB after, PSNR '
            f'{prepared["sample"]["psnr_db"]:.1f} dB.\n'
        )
    return text


if __name__ == '__main__':
    main()
