"""Raw frames, the frames of a video as pictures in a folder: how they are called, and a check."""

import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmsifa.datasets.annotations import annotation_lines
from mmsifa.datasets.checked import frame_failure
from mmsifa.fileio.video import UnreadableVideoError

_NUMBERED = re.compile(r'(.*?)(\d+)(\.(?:jpe?g|png|bmp|webp|tiff?))', re.IGNORECASE | re.DOTALL)


class RawFrames(NamedTuple):
    """Frames of a folder: what a file is called, in the words of ``filename_tmpl``, and which."""

    folder: str
    template: str
    numbers: range

    def __str__(self) -> str:
        return self.folder


def lists_folders(path: str | os.PathLike, root: str, delimiter: str | None) -> bool:
    """Tell whether a list is of raw frames: whether the first path that is there is a folder.

    Args:
        path: The list.
        root: Folder that the paths start from.
        delimiter: What separates the columns; None for any white space.
    """
    for _, line in islice(annotation_lines(path), 1000):
        if isinstance(line, str):
            listed = os.path.join(root, line.split(delimiter)[0])
            if os.path.exists(listed):
                return os.path.isdir(listed)
    return False


def frame_names(folders: Iterable[str]) -> tuple[str, int]:
    """Find out how the frames of folders are called.

    Args:
        folders: Folders; the first one with numbered pictures counts.

    Returns:
        The ``filename_tmpl`` and ``start_index`` of the data sets: ``img_{:05}.jpg``, MMAction2's
        default, where there are such files, which may stand beside those of optical flow.

    Raises:
        ValueError: If there are none.

    Example:
        >>> folder = getfixture('tmp_path')
        >>> for number in range(12):
        ...     (folder / f'{number:04}.png').touch()
        >>> frame_names([folder])
        ('{:04}.png', 0)
    """
    for folder in folders:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found = [match for name in names if (match := _NUMBERED.fullmatch(name))]
        if found:
            first = min(found, key=lambda match: match[1] != 'img_')
            numbers = [match[2] for match in found if match.group(1, 3) == first.group(1, 3)]
            before, after = (
                part.replace('{', '{{').replace('}', '}}') for part in first.group(1, 3)
            )
            return f'{before}{{:0{min(map(len, numbers))}}}{after}', min(1, *map(int, numbers))
    raise ValueError(
        'the folders of the list have no numbered pictures: give --filename-tmpl and --start-index'
    )


def check_raw_frames(frames: RawFrames) -> None:
    """Decode frames as ``RawFrameDecode`` does by default, and see that each is whole.

    Args:
        frames: The frames.

    Raises:
        UnreadableVideoError: If one is missing, is no picture, is cut off or damaged.
    """
    for number in frames.numbers:
        file = os.path.join(frames.folder, frames.template.format(number))
        try:
            with open(file, 'rb') as opened:
                _check_picture(opened.read())
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, of a PNG
            raise UnreadableVideoError(frame_failure(file, error)) from error


def _check_picture(content: bytes) -> None:
    if not content:
        raise ValueError('it is empty')
    with tempfile.TemporaryFile() as words, _stderr_to(words.fileno()):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        said = os.pread(words.fileno(), 200, 0).decode(errors='replace').strip()
    if picture is None:
        raise ValueError('it is cut off or no image')
    if said:  # of what it filled with some colour
        raise ValueError(said)
    with suppress(UnidentifiedImageError), Image.open(io.BytesIO(content)) as image:
        image.load()  # other versions of OpenCV fill up what is cut off without a word


@contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    """Let C libraries print to a file."""
    before = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
