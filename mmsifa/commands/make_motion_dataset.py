"""Make clips whose classes differ in motion alone.

Textured sprites move over a still background, and the class is how they move: left, right, up,
down, towards, away, clockwise or counterclockwise. A single frame does not tell the class. The
files are laid out as MMAction2's VideoDataset reads Kinetics: OUT/videos_train/*.mp4,
OUT/train_list_videos.txt, the same for val, OUT/label_map.txt, and OUT/settings.json.

Example:
    mmsifa make-motion-dataset data/motion
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FORMAT = {'format': 'mmsifa-motion', 'version': 1}


@dataclass(frozen=True)
class MotionSettings:
    """What a dataset is made from; each field's help says what it is.

    Raises:
        ValueError: If no dataset can be made from the settings.
    """

    num_train: int = field(default=1600, metadata={'help': 'clips in the training split'})
    num_val: int = field(default=200, metadata={'help': 'clips in the validation split'})
    num_frames: int = field(default=20, metadata={'help': 'frames in a clip'})
    size: int = field(default=64, metadata={'help': 'height and width of the frames in pixels'})
    displacement: float = field(
        default=3.0,
        metadata={'help': 'mean displacement of the rim of a sprite from frame to frame in pixels'},
    )
    seed: int = field(default=0, metadata={'help': 'seed of everything random'})
    fps: int = field(default=24, metadata={'help': 'frames per second'})

    def __post_init__(self) -> None:
        from mmsifa.datasets.motions import MOTIONS

        for name in ('num_train', 'num_val'):
            if getattr(self, name) < len(MOTIONS):
                raise ValueError(
                    f'{name} must be at least {len(MOTIONS)}, a clip for each class, '
                    f'but is {getattr(self, name)}'
                )
        if self.num_frames < 2:
            raise ValueError(f'num_frames must be at least 2 to show motion, not {self.num_frames}')
        if self.size < 16 or self.size % 2:
            raise ValueError(f'size must be an even number of pixels, 16 or more, not {self.size}')
        if not 0 < self.displacement <= self.size / 10:
            raise ValueError(
                f'displacement must be above 0 and at most size / 10 = {self.size / 10:g} pixels '
                f'(faster motion can look reversed), not {self.displacement:g}'
            )
        if self.seed < 0:
            raise ValueError(f'seed must be 0 or more, not {self.seed}')
        if not 1 <= self.fps <= 240:
            raise ValueError(f'fps must be between 1 and 240, not {self.fps}')


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write a video without loss and check that it can be read to its end.

    Its codec is PNG, since the artefacts of one that predicts a frame from the one before, such as
    MPEG-4, show the direction of motion in every single frame. It only stores the pixels, which
    takes a tenth more room than their fastest compression and half of the time to read.

    Args:
        path: The mp4 file to write.
        frames: RGB frames, uint8, shape (T, H, W, 3).
        fps: Frames per second.

    Raises:
        RuntimeError: If the file can't be written, or it can't be read to its end.
    """
    import av
    import numpy as np

    from mmsifa.fileio.video import UnreadableVideoError, VideoReader

    try:
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('png', fps, options={'compression_level': '0'})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = 'rgb24'
            for frame in (*map(av.VideoFrame.from_ndarray, frames), None):
                container.mux(stream.encode(frame))
    except OSError as error:
        raise RuntimeError(f'{path} could not be written: {error.strerror}') from error
    try:
        reader = VideoReader(path)
        whole = len(reader) == len(frames) and np.array_equal(reader[len(reader) - 1], frames[-1])
    except (UnreadableVideoError, OSError) as error:
        raise RuntimeError(f'{path} could not be read back ({error})') from error
    if not whole:
        raise RuntimeError(f'{path} does not hold all that was written: is the disk full?')


def make_dataset(out: str | Path, settings: MotionSettings, overwrite: bool = False) -> bool:
    """Make a dataset in a new folder, which appears only when it is complete.

    Args:
        out: The folder to make.
        settings: What to make.
        overwrite: Replace a dataset that this tool made before.

    Returns:
        False if the folder already held this very dataset and nothing was done, else True.

    Raises:
        FileExistsError: If the folder exists and holds anything else.
        RuntimeError: If a video can't be written.
    """
    from mmsifa.datasets.motions import MOTIONS

    out = Path(out).resolve()
    wanted = {**FORMAT, **asdict(settings)}
    if out.exists():
        found = _read_settings(out)
        changes = [
            f'{name} is {found.get(name)} there but {value} here'
            for name, value in wanted.items()
            if found.get(name) != value
        ]
        if not changes and not overwrite:
            return False
        if not overwrite:
            raise FileExistsError(
                f'{out} holds a dataset made with other settings: {"; ".join(changes)}. '
                'Replace it with --overwrite or name another folder'
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as scratch:
        new, old = Path(scratch, 'new'), Path(scratch, 'old')
        _write_split(new, 'train', settings.num_train, settings)
        _write_split(new, 'val', settings.num_val, settings)
        _write_text(new / 'label_map.txt', ''.join(f'{motion}\n' for motion in MOTIONS))
        _write_text(new / 'settings.json', json.dumps(wanted, indent=2, allow_nan=False) + '\n')
        try:
            if out.exists():
                out.rename(old)
            new.rename(out)
        finally:
            if old.exists() and not out.exists():
                old.rename(out)
    return True


def _read_settings(out: Path) -> dict:
    """The settings of an existing dataset; FileExistsError if it is not one of this tool's."""
    try:
        found = json.loads((out / 'settings.json').read_text(encoding='utf-8'))
        if found['format'] == FORMAT['format']:
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise FileExistsError(
        f'{out} exists and is no dataset of this tool, so it stays as it is: name another folder'
    )


def _write_split(out: Path, split: str, count: int, settings: MotionSettings) -> None:
    """Write the videos and the annotation list of a split."""
    import numpy as np
    from rich.progress import track

    from mmsifa.datasets.motions import MOTIONS, render, sample_clip

    videos = out / f'videos_{split}'
    videos.mkdir(parents=True)

    def write_clip(index: int) -> str:
        label = index % len(MOTIONS)
        motion = list(MOTIONS)[label]
        rng = np.random.default_rng([settings.seed, ('train', 'val').index(split), index])
        clip = sample_clip(rng, motion, settings.num_frames, settings.size, settings.displacement)
        name = f'{index:05d}_{motion}.mp4'
        write_video(videos / name, render(clip), settings.fps)
        return f'{name} {label}\n'

    pool = ThreadPoolExecutor(os.cpu_count())  # codecs and drawing run outside of Python's lock
    try:
        clips = pool.map(write_clip, range(count))
        lines = list(track(clips, f'Writing {split} clips', total=count))
    finally:
        pool.shutdown(cancel_futures=True)
    _write_text(out / f'{split}_list_videos.txt', ''.join(lines))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding='utf-8', newline='\n')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('out', metavar='OUT', help='folder to make')
    for option in fields(MotionSettings):
        parser.add_argument(
            f'--{option.name.replace("_", "-")}',
            type=type(option.default),
            default=option.default,
            help=f'{option.metadata["help"]} (default: %(default)s)',
        )
    parser.add_argument('--overwrite', action='store_true', help='replace a dataset made before')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Make the data set that the arguments name."""
    out = args.out
    settings = {option.name: getattr(args, option.name) for option in fields(MotionSettings)}
    try:
        made = make_dataset(out, MotionSettings(**settings), args.overwrite)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted, nothing is left behind')
    print(f'{out}: made' if made else f'{out}: already there, made with the same settings')
    return 0
