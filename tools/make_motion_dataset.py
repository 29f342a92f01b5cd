"""Make a video dataset whose classes differ in nothing but the direction of motion.

Textured sprites move over a still textured background, and the class is how they move: left,
right, up, down, towards, away, clockwise or counterclockwise. A sprite's pose (x, y, size, angle)
lives on a torus: what leaves the frame on one side enters on the other, and a sprite that has
grown to the largest size goes on from the smallest. A clip starts anywhere on the torus with equal
chance and moves uniformly. So a single frame, whichever it is, has the same distribution in every
class, and a clip played backwards is a clip of the opposite class.

A zoom runs through all sizes in about 0.3 * size / displacement frames (6 by default). Sampled
at half of that or further apart, frames no longer tell towards from away.

The videos are coded without loss (FFV1), since the artefacts of a codec that predicts a frame from
the one before, such as MPEG-4, show the direction of motion in every single frame.

The files are laid out as MMAction2's ``VideoDataset`` reads Kinetics::

    OUT/videos_train/*.mp4  OUT/train_list_videos.txt  OUT/label_map.txt
    OUT/videos_val/*.mp4    OUT/val_list_videos.txt    OUT/settings.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import cv2
import decord
import numpy as np
from rich.progress import track

# Class -> axis of the pose (x, y, size, angle) and direction along it. The image's y points down,
# which makes a growing angle clockwise.
MOTIONS = {
    'left': (0, -1),
    'right': (0, 1),
    'up': (1, -1),
    'down': (1, 1),
    'towards': (2, 1),
    'away': (2, -1),
    'clockwise': (3, 1),
    'counterclockwise': (3, -1),
}
SMALLEST, LARGEST = 0.1, 0.48  # a sprite's outer radius, as a share of the frame's side
MAX_SPRITES = 3
TEXTURE_SIZE = 64
TEXTURE_REACH = 1.1  # half the side of a sprite's texture, in outer radii
FORMAT = {'format': 'mmsifa-motion', 'version': 1}


@dataclass(frozen=True)
class Settings:
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


@dataclass(frozen=True)
class Clip:
    """A scene in motion, ready to be rendered.

    Attributes:
        background: RGB in 0..1, shape (size, size, 3).
        sprites: RGB in 0..1 and signed distance to the outline in outer radii (positive inside),
            shape (N, TEXTURE_SIZE, TEXTURE_SIZE, 4); the last sprite is in front.
        middle: Poses (x, y, size, angle) in the middle of the clip, each in 0..1, shape (N, 4).
        velocity: Change of the poses from frame to frame, shape (N, 4).
        num_frames: Frames in the clip.
    """

    background: np.ndarray
    sprites: np.ndarray
    middle: np.ndarray
    velocity: np.ndarray
    num_frames: int

    def poses(self, frame: int) -> np.ndarray:
        """Poses (x, y, size, angle) of the sprites at a frame, each in 0..1, shape (N, 4)."""
        return (self.middle + self.velocity * (frame - (self.num_frames - 1) / 2)) % 1.0


def sample_clip(
    rng: np.random.Generator,
    motion: str,
    settings: Settings = Settings(),
) -> Clip:
    """Draw a random clip of one class.

    The same state of the generator gives the same appearance and the same poses in the middle of
    the clip, whatever the class.

    Args:
        rng: Source of randomness.
        motion: A key of ``MOTIONS``.
        settings: Of these, the size, the number of frames and the displacement are used. The
            displacement of a zoom is the mean over all sizes, since larger sprites move faster.

    Returns:
        The clip, for :func:`render`.

    Raises:
        ValueError: If there is no such motion.

    Example:
        >>> settings = Settings(num_frames=8, displacement=3)
        >>> clip = sample_clip(np.random.default_rng(0), 'left', settings)
        >>> (clip.velocity[0] * settings.size).tolist()
        [-3.0, 0.0, 0.0, 0.0]
        >>> render(clip).shape
        (8, 64, 64, 3)
    """
    if motion not in MOTIONS:
        raise ValueError(f'motion must be one of {", ".join(MOTIONS)}, not {motion!r}')
    size, displacement = settings.size, settings.displacement
    background = _texture(rng, size, (2, 4, 8), 0.15)
    drawn = [_sprite(rng) for _ in range(rng.integers(1, MAX_SPRITES + 1))]
    middle = rng.random((len(drawn), 4))

    rim = size * np.array([mean_radius for _, mean_radius in drawn])
    axis, direction = MOTIONS[motion]
    if axis < 2:
        speed = np.full(len(rim), displacement / size)
    elif axis == 2:
        speed = displacement / (rim * (LARGEST - SMALLEST))
    else:
        speed = displacement / (2 * np.pi * rim * _outer_radius(middle[:, 2]))
    velocity = np.zeros_like(middle)
    velocity[:, axis] = direction * speed
    sprites = np.stack([sprite for sprite, _ in drawn])
    return Clip(background, sprites, middle, velocity, settings.num_frames)


def _texture(
    rng: np.random.Generator, size: int, cells: Sequence[int], contrast: float
) -> np.ndarray:
    """Smooth colour noise of several scales, RGB in 0..1, shape (size, size, 3)."""
    noise = np.zeros((size, size, 3), np.float32)
    for count in cells:
        grid = rng.standard_normal((count, count, 3)).astype(np.float32)
        noise += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    noise *= contrast / noise.std()
    return np.clip(rng.uniform(0.3, 0.7, 3).astype(np.float32) + noise, 0, 1)


def _sprite(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A sprite as in ``Clip.sprites``, and its outline's mean radius in outer radii."""
    turn = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    phase = rng.uniform(0, 2 * np.pi, (5, 1))
    outline = rng.standard_normal(5) @ np.cos(np.arange(1, 6)[:, None] * turn + phase)
    outline = 1 - rng.uniform(0.3, 0.5) * (outline - outline.min()) / np.ptp(outline)
    axis = np.linspace(-TEXTURE_REACH, TEXTURE_REACH, TEXTURE_SIZE)
    x, y = np.meshgrid(axis, axis)
    inside = np.interp(np.arctan2(y, x), turn, outline, period=2 * np.pi) - np.hypot(x, y)
    colour = _texture(rng, TEXTURE_SIZE, (3, 6, 12), 0.3)
    return np.dstack([colour, inside]).astype(np.float32), float(outline.mean())


def _outer_radius(pose_size: np.ndarray) -> np.ndarray:
    """Outer radius as a share of the frame's side; its logarithm is linear in the pose's size."""
    return SMALLEST * (LARGEST / SMALLEST) ** pose_size


def render(clip: Clip) -> np.ndarray:
    """Draw a clip: RGB frames, uint8, shape (num_frames, size, size, 3)."""
    frames = np.empty((clip.num_frames, *clip.background.shape), np.uint8)
    for index, frame in enumerate(frames):
        canvas = clip.background.copy()
        for sprite, pose in zip(clip.sprites, clip.poses(index), strict=True):
            _draw(canvas, sprite, pose)
        frame[:] = np.rint(canvas * 255)
    return frames


def _draw(canvas: np.ndarray, sprite: np.ndarray, pose: np.ndarray) -> None:
    """Draw a sprite onto the canvas, wrapped around the frame's sides."""
    size = len(canvas)
    radius, angle = size * _outer_radius(pose[2]), 2 * np.pi * pose[3]
    centre = (TEXTURE_SIZE - 1) / 2
    scale = radius * TEXTURE_REACH / centre
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = min(size, 2 * int(radius) + 4)
    exact_corner = size * pose[:2] - side / 2
    corner = np.rint(exact_corner).astype(int)
    shift = (side - 1) / 2 + exact_corner - corner - turn.sum(axis=1) * centre
    affine = np.column_stack([turn, shift])
    drawn = cv2.warpAffine(sprite, affine, (side, side), borderValue=(0, 0, 0, -1))
    alpha = np.clip(drawn[..., 3:] * radius + 0.5, 0, 1)
    columns, rows = (corner[:, None] + np.arange(side)) % size
    box = np.ix_(rows, columns)
    behind = canvas[box]
    canvas[box] = behind + alpha * (drawn[..., :3] - behind)


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write a video without loss and check that it can be read to its end.

    Args:
        path: The mp4 file to write.
        frames: RGB frames, uint8, shape (T, H, W, 3).
        fps: Frames per second.

    Raises:
        RuntimeError: If OpenCV can't write the file, or decord can't read it to its end.
    """
    height, width = frames.shape[1:3]
    codec = cv2.VideoWriter.fourcc(*'FFV1')
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, (width, height))
    if not writer.isOpened():
        raise RuntimeError(
            f'OpenCV {cv2.__version__} could not open {path} to write FFV1 video: the folder must '
            'be writable and OpenCV 5 or newer, as from opencv-python-headless on PyPI'
        )
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        whole = len(reader) == len(frames) and np.array_equal(reader[-1].asnumpy(), frames[-1])
    except (decord.DECORDError, RuntimeError) as error:
        raise RuntimeError(
            f'decord, with which MMAction2 reads videos, could not read {path} back. It fails at '
            f'some frame sizes, here {width}x{height}; 64, 112 and 224 work'
        ) from error
    if not whole:
        raise RuntimeError(f'{path} does not hold all that was written: is the disk full?')


def make_dataset(out: str | Path, settings: Settings, overwrite: bool = False) -> bool:
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
        _write_text(new / 'settings.json', json.dumps(wanted, indent=2) + '\n')
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


def _write_split(out: Path, split: str, count: int, settings: Settings) -> None:
    """Write the videos and the annotation list of a split."""
    videos = out / f'videos_{split}'
    videos.mkdir(parents=True)

    def write_clip(index: int) -> str:
        label = index % len(MOTIONS)
        motion = list(MOTIONS)[label]
        rng = np.random.default_rng([settings.seed, ('train', 'val').index(split), index])
        name = f'{index:05d}_{motion}.mp4'
        write_video(videos / name, render(sample_clip(rng, motion, settings)), settings.fps)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('out', metavar='OUT', help='folder to make')
    for option in fields(Settings):
        parser.add_argument(
            f'--{option.name.replace("_", "-")}',
            type=type(option.default),
            default=option.default,
            help=f'{option.metadata["help"]} (default: %(default)s)',
        )
    parser.add_argument('--overwrite', action='store_true', help='replace a dataset made before')
    options = vars(parser.parse_args(argv))
    out, overwrite = options.pop('out'), options.pop('overwrite')
    try:
        made = make_dataset(out, Settings(**options), overwrite)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted, nothing is left behind')
    print(f'{out}: made' if made else f'{out}: already there, made with the same settings')


if __name__ == '__main__':
    main()
