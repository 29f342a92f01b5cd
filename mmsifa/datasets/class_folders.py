"""Annotation lists of videos that are sorted into a folder for each class."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import check_delimiter

VIDEO_SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts'),
    *('.ogv', '.ts', '.webm', '.wmv'),
)


@dataclass(frozen=True)
class ClassFolders:
    """Videos by class, split into two parts.

    Attributes:
        classes: Names of the classes; a label is a place in this list.
        train: Paths and labels of the videos to train on.
        val: Paths and labels of those to validate with.
    """

    classes: list[str]
    train: list[tuple[str, int]]
    val: list[tuple[str, int]]


def split_class_folders(folder: str | Path, val_share: float = 0.2, seed: int = 0) -> ClassFolders:
    """Split the videos ``FOLDER/CLASS/VIDEO``, each class by itself.

    The classes are in alphabetical order. Which videos of a class validate depends on the seed, the
    name of the class and those of its videos, so further classes leave it as it is. Hidden files
    and files that are no videos by their suffix are left out.

    Args:
        folder: The folder of the classes' folders; links are followed.
        val_share: Share of each class to validate with, rounded; one video at least, and at least
            one is left to train on. Default: 0.2.
        seed: Seed of the draw. Default: 0.

    Returns:
        The classes and the two parts, with paths below ``folder``.

    Raises:
        ValueError: If there are fewer than two classes, a class has fewer than two videos, a video
            lies in no class or too deep, has a name that no list can hold or is there twice by a
            link, or the share is not between 0 and 1.

    Example:
        >>> folder = getfixture('tmp_path')
        >>> for name in ('run/1.mp4', 'run/2.mp4', 'walk/1.mp4', 'walk/2.mp4', 'walk/3.mp4'):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     (folder / name).touch()
        >>> split = split_class_folders(folder)
        >>> split.classes, len(split.train), len(split.val)
        (['run', 'walk'], 3, 2)
    """
    folder = Path(folder)
    if not 0 < val_share < 1:
        raise ValueError(f'the share to validate with must be between 0 and 1, got {val_share:g}')
    if not folder.is_dir():
        raise ValueError(f'no folder {folder}: expected one that holds a folder for each class')
    stray = [path.name for path in _visible(folder) if _is_video(path)]
    if stray:
        raise ValueError(f'{folder / stray[0]} is in no class: move it into a folder CLASS/')
    classes = [path.name for path in _visible(folder) if path.is_dir()]
    if len(classes) < 2:
        raise ValueError(f'{folder} must hold two folders CLASS/ or more, got {classes}')

    train: list[tuple[str, int]] = []
    val: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        deeper = [path for path in _visible(folder / name) if path.is_dir()]
        if deeper:
            raise ValueError(f'{deeper[0]} is a folder: expected videos FOLDER/CLASS/VIDEO')
        found = [path for path in _visible(folder / name) if _is_video(path)]
        broken = [path for path in found if not path.is_file()]
        if broken:
            raise ValueError(f'{broken[0]} is a link to no file: mend or remove it')
        videos = [f'{name}/{path.name}' for path in found]
        for video in videos:
            _check_name(video)
        if len(videos) < 2:
            raise ValueError(
                f'{folder / name} must hold two videos or more, to train and to validate with, got '
                f'{len(videos)} (videos end in {", ".join(VIDEO_SUFFIXES)})'
            )
        count = min(max(1, round(val_share * len(videos))), len(videos) - 1)
        drawn = set(random.Random(f'{seed}/{name}').sample(videos, count))
        val += [(video, label) for video in videos if video in drawn]
        train += [(video, label) for video in videos if video not in drawn]
    files: dict[Path, str] = {}
    for video, _ in sorted(train + val):
        other = files.setdefault((folder / video).resolve(), video)
        if other != video:
            raise ValueError(f'{video} and {other} are the same file, by a link: leave one of them')
    return ClassFolders(classes, train, val)


def write_lists(
    split: ClassFolders, out: str | Path, delimiter: str = ' ', overwrite: bool = False
) -> None:
    """Write ``train_list_videos.txt``, ``val_list_videos.txt`` and ``label_map.txt``.

    Args:
        split: The videos and their classes.
        out: The folder to write into.
        delimiter: What stands between path and label; the data set needs the same. Default: a
            space.
        overwrite: Whether files that are there with another content are replaced. Default: False.

    Raises:
        ValueError: If a path cannot stand in a list with this delimiter, or no list can.
        FileExistsError: If a file is there with another content.
        OSError: If a file cannot be written.
    """
    check_delimiter(delimiter)
    paths = [path for path, _ in (*split.train, *split.val)]
    for path in paths:
        _check_name(path)
        if delimiter in path:
            free = [repr(other) for other in (',', ';', '\t') if not any(other in p for p in paths)]
            advice = f'choose another one, such as {free[0]}' if free else 'rename it'
            raise ValueError(
                f'{path!r} has the delimiter {delimiter!r} in it: {advice}. The data sets need the '
                'same one, CheckedVideoDataset(delimiter=...)'
            )
    files = {
        'train_list_videos.txt': _lines(split.train, delimiter),
        'val_list_videos.txt': _lines(split.val, delimiter),
        'label_map.txt': ''.join(f'{name}\n' for name in split.classes),
    }
    write_new({Path(out, name): text for name, text in files.items()}, overwrite)


def write_new(files: dict[Path, str], overwrite: bool = False) -> None:
    """Write texts, all or, where one would replace another content, none.

    Args:
        files: The text of each file.
        overwrite: Whether files that are there with another content are replaced. Default: False.

    Raises:
        FileExistsError: If a file is there with another content.
        OSError: If a file cannot be written.
    """
    for file, text in files.items():
        if not overwrite and file.exists() and file.read_bytes() != text.encode():
            raise FileExistsError(f'{file} is there with another content: it stays as it is')
    for file, text in files.items():
        write_atomically(file, text)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith('.'))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def _check_name(path: str) -> None:
    """Refuse a name that no list can hold."""
    wrong = [letter for letter in path if not (letter.isprintable() or letter == ' ')]
    if wrong:
        raise ValueError(f'{path!r} has the character {wrong[0]!r}, which breaks a list: rename it')
    if path != path.strip():
        raise ValueError(f'{path!r} starts or ends with a space, which a list loses: rename it')


def _lines(samples: Iterable[tuple[str, int]], delimiter: str) -> str:
    return ''.join(f'{path}{delimiter}{label}\n' for path, label in samples)
