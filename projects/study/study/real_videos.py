"""Labelled sets of real videos, in a folder each with a table of its clips."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from mmsifa.fileio.reencoding import Encoding, reencode
from mmsifa.fileio.video import VideoReader


class VideoSet(NamedTuple):
    """A set of videos, ``NAME/clips.csv`` with columns ``file``, ``label`` and that of the parts.

    A column ``class`` may name the labels.

    Attributes:
        title: What it asks for.
        column: The column of the parts.
        parts: The parts that are tested, each by a network that is trained on all other clips.
    """

    title: str
    column: str
    parts: tuple[str, ...]


VIDEO_SETS = {
    'gestures': VideoSet('name the gesture', 'fold', ('0', '1', '2', '3', '4')),
    'ucf10': VideoSet('name the exercise', 'split', ('test',)),
}


def sets_in(folder: Path) -> list[str]:
    """Name the sets that a folder has.

    Args:
        folder: The folder of the sets' folders.

    Returns:
        Keys of ``VIDEO_SETS``.

    Raises:
        ValueError: If there is none.
    """
    found = [name for name in VIDEO_SETS if (folder / name / 'clips.csv').is_file()]
    if not found:
        expected = ' or '.join(f'{name}/clips.csv' for name in VIDEO_SETS)
        raise ValueError(f'{folder} must hold {expected}, got neither')
    return found


def split_clips(folder: Path, name: str, part: str) -> dict[str, list[tuple[str, int]]]:
    """Read which clips of a set train and which test.

    Args:
        folder: The folder of the sets' folders.
        name: A key of ``VIDEO_SETS``.
        part: The part to test.

    Returns:
        ``train`` and ``val``, for each of their clips the path within the set and the label.

    Raises:
        ValueError: If a column is missing, a label is no number or a part has no clip.
    """
    clips: dict[str, list[tuple[str, int]]] = dict(train=[], val=[])
    for row in _rows(folder, name):
        clips['val' if row.part == part else 'train'].append((row.file, row.label))
    if not clips['train'] or not clips['val']:
        raise ValueError(
            f'{folder / name / "clips.csv"} must have clips with {VIDEO_SETS[name].column} {part} '
            'and others, to train on'
        )
    return clips


def class_names(folder: Path, name: str) -> list[str]:
    """Read the names of a set's classes, by their labels; the labels where it has none.

    Args:
        folder: The folder of the sets' folders.
        name: A key of ``VIDEO_SETS``.

    Returns:
        The column ``class`` for each label, or the label itself.

    Raises:
        ValueError: As :func:`split_clips`.
    """
    names = {row.label: row.class_name for row in _rows(folder, name)}
    return [names.get(label) or str(label) for label in range(max(names, default=-1) + 1)]


class _Row(NamedTuple):
    """A line of a set's table."""

    file: str
    label: int
    part: str
    class_name: str | None


def _rows(folder: Path, name: str) -> list[_Row]:
    path, column = folder / name / 'clips.csv', VIDEO_SETS[name].column
    rows = []
    with path.open(newline='', encoding='utf-8') as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                clip = _Row(row['file'], int(row['label']), row[column], row.get('class'))
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(
                    f'{path}, line {number}: expected a file, a label that is a number and the '
                    f'column {column!r}, got {row}'
                ) from error
            rows.append(clip)
    return rows


class KeptFrames:
    """Frames of a video, evenly spread and small, in memory; a reader for ``DecordDecode``.

    Attributes:
        times: Their times, in seconds.

    Args:
        file: The video.
        num_frames: How many of its frames; all, where it has fewer.
        height: Their height in pixels.
    """

    def __init__(self, file: str, num_frames: int, height: int) -> None:
        reader = VideoReader(file)
        count = min(num_frames, len(reader))
        kept = np.linspace(0, len(reader) - 1, count).round().astype(int)
        frames, self.times = reader.frames(kept), reader.times[kept]
        size = round(frames[0].shape[1] * height / frames[0].shape[0]), height
        self._frames = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames])

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return frames (H, W, 3) by their numbers, to be changed at will."""
        return list(self._frames[indices])


@TRANSFORMS.register_module()
class KeepFrames(BaseTransform):
    """Open a video as ``DecordInit`` does, but decode it once in a process, small.

    Required keys are "filename", added keys are "video_reader" and "total_frames".

    Args:
        num_frames: How many of its frames, evenly spread; all, where it has fewer.
        height: Their height in pixels.
        short_side: If given, the video is encoded anew before, as by ``mmsifa prepare-videos`` with
            this ``--short-side``. Default: None.

    Raises:
        UnreadableVideoError: If a video cannot be read.
    """

    def __init__(self, num_frames: int, height: int, short_side: int | None = None) -> None:
        self.num_frames = num_frames
        self.height = height
        self.short_side = short_side

    def transform(self, results: dict) -> dict:
        """Add the reader.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.
        """
        reader = _kept_frames(results['filename'], self.num_frames, self.height, self.short_side)
        results.update(video_reader=reader, total_frames=len(reader))
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_frames={self.num_frames}, height={self.height}, '
            f'short_side={self.short_side})'
        )


@functools.cache
def _kept_frames(file: str, num_frames: int, height: int, short_side: int | None) -> KeptFrames:
    if not short_side:
        return KeptFrames(file, num_frames, height)
    with TemporaryDirectory() as folder:
        prepared = f'{folder}/prepared.mp4'
        reencode(file, prepared, Encoding(short_side))
        return KeptFrames(prepared, num_frames, height)


@TRANSFORMS.register_module()
class ShuffleFrames(BaseTransform):
    """Put the frames of a clip in another order, that of its number in the data set.

    Put it after the decoding. Required keys are "imgs" and "sample_idx", modified keys are "imgs".

    Example:
        >>> ShuffleFrames()({'imgs': [1, 2, 3, 4], 'sample_idx': 0})['imgs']
        [3, 1, 2, 4]
    """

    def transform(self, results: dict) -> dict:
        """Reorder ``results['imgs']``.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.
        """
        order = np.random.default_rng(results['sample_idx']).permutation(len(results['imgs']))
        results['imgs'] = [results['imgs'][i] for i in order]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class SubtractBackground(BaseTransform):
    """Take from each frame a share of what all frames that were taken have in common.

    That is their mean over time, less its own mean over the picture, so that brightness and colour
    stay. Where the camera is nearly still, what moves remains. Required and modified keys are
    "imgs", which become float32.

    Args:
        share: The share, 0 to 1.

    Raises:
        ValueError: If it is another one.

    Example:
        >>> frames = [np.uint8([[[0], [100]]]), np.uint8([[[50], [100]]])]  # (1, 2, 1)
        >>> frames = SubtractBackground(share=1.0)({'imgs': frames})['imgs']
        >>> [frame[..., 0].tolist() for frame in frames]
        [[[37.5, 62.5]], [[87.5, 62.5]]]
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f'share must be 0 to 1, got {share}')
        self.share = share

    def transform(self, results: dict) -> dict:
        """Change ``results['imgs']``.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.
        """
        common = np.mean(results['imgs'], axis=0, dtype=np.float32)
        background = self.share * (common - common.mean(axis=(0, 1)))
        results['imgs'] = [frame - background for frame in results['imgs']]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(share={self.share})'
