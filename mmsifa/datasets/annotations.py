"""Reading of annotation lists that trusts no line: text files with a sample on each line."""

import logging
import ntpath
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from mmengine.logging import print_log

from mmsifa.fileio.text_files import check_delimiter, numbered_lines

MAX_SHOWN = 5  # problems named in an error
MAX_NUMBER = 10**9 - 1
_NUMBER = re.compile(r'[0-9]{1,9}')
# Paths with any of these are looked at closely; all others are plain relative ones.
_UNUSUAL = re.compile(r'\\|\.\.|^/|^[A-Za-z]:|[\x00-\x1f\x7f]')


class AnnotationError(ValueError):
    """An annotation list that lies; the message names the file, the lines and what is wrong."""


class _WrongLine(ValueError):
    """What is wrong with one line."""


def read_annotations(
    path: str | os.PathLike,
    columns: Sequence[str] = ('filename',),
    *,
    root: str | None = None,
    delimiter: str | None = ' ',
    multi_class: bool = False,
    num_classes: int | None = None,
    labels_required: bool = True,
) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    r"""Read a list of samples, or say what is wrong with it.

    A line is a path, a whole number for each further column, and the label; any number of labels
    with ``multi_class``. Blank lines are skipped. The samples are those of MMAction2's
    ``VideoDataset`` and ``RawframeDataset``.

    A sample that is listed twice with one label is drawn more often: it is kept, with a warning in
    the log. With two labels it is an error, however its path is spelt. With a ``root``, any ``..``
    is an error, and an absolute path that does not start with the root; links that lead out of it
    are followed.

    Args:
        path: The list, a text file as of :func:`~mmsifa.fileio.text_files.numbered_lines`.
        columns: Names of the columns before the label; the first is the path. Numbers are 1 or
            more, but for ``offset``, which may be 0. Default: ``('filename',)``.
        root: Folder that the paths start from and must not leave. Default: None, no folder.
        delimiter: What separates the columns; None for any white space. Default: a space.
        multi_class: Whether a sample has any number of labels. Default: False.
        num_classes: Number of classes, which labels must be below. Default: None, unknown.
        labels_required: Whether each line must have its label, or with ``multi_class`` some line.
            If not, all lines may lack it and get the label -1. Default: True.

    Returns:
        The samples, dicts of the columns and ``label``; and the largest label with its line, or
        (-1, 0) if there is none.

    Raises:
        AnnotationError: If lines are wrong, or there are none. The first five are named.
        ValueError: If the delimiter can separate nothing.
        OSError: If the file cannot be read.

    Example:
        >>> file = getfixture('tmp_path') / 'list.txt'
        >>> _ = file.write_text('run/1.mp4 0\nrun/2.mp4 1\n')
        >>> samples, (label, line) = read_annotations(file, root='videos')
        >>> samples[0]
        {'filename': 'videos/run/1.mp4', 'label': 0}
        >>> label, line
        (1, 2)
        >>> _ = file.write_text('../1.mp4 0\nrun/2.mp4 one\n')
        >>> try:
        ...     read_annotations(file, root='videos')
        ... except AnnotationError as error:
        ...     print(str(error).partition('list.txt')[2])
         has 2 wrong lines of 2:
          line 1: '../1.mp4' leaves the data root 'videos'
          line 2: the label 'one' is no whole number from 0 to 999999999
    """
    if delimiter is not None:
        check_delimiter(delimiter)
    reader = _Reader(columns, root, delimiter, multi_class, num_classes, labels_required)
    problems: list[str] = []
    wrong = number = 0
    for number, line in annotation_lines(path):
        try:
            reader.add(number, line)
        except _WrongLine as error:
            wrong += 1
            if wrong <= MAX_SHOWN:
                problems.append(f'line {number}: {error}')
    if wrong:
        if wrong > MAX_SHOWN:
            problems.append(f'and {wrong - MAX_SHOWN} more')
        lines = 'line' if wrong == 1 else 'lines'
        raise AnnotationError(
            '\n  '.join([f'{path} has {wrong} wrong {lines} of {number}:', *problems])
        )
    if not reader.samples:
        raise AnnotationError(f'{path} holds no samples; expected {reader.form!r} on each line')
    if labels_required and reader.largest_label[0] < 0:
        raise AnnotationError(f'{path} has no labels; expected {reader.form!r} on each line')
    if reader.repeated:
        print_log(
            f'{path}: {reader.repeated} of {len(reader.samples)} samples are listed before; they '
            'are drawn, and count, more often',
            logger='current',
            level=logging.WARNING,
        )
    return reader.samples, reader.largest_label


def annotation_lines(path: str | os.PathLike) -> Iterator[tuple[int, str | ValueError]]:
    """Number and text of each line of a list that is not blank.

    Args:
        path: The list, as in :func:`read_annotations`.

    Yields:
        The number and text or error of :func:`~mmsifa.fileio.text_files.numbered_lines`.
    """
    return ((number, line) for number, line in numbered_lines(path) if line)


class _Reader:
    """Turns lines into samples, each looked at alone and beside the ones before."""

    def __init__(self, columns, root, delimiter, multi_class, num_classes, labels_required):
        self.columns = tuple(columns)
        self.root = root
        self.delimiter = delimiter
        self.multi_class = multi_class
        self.max_label = MAX_NUMBER if num_classes is None else num_classes - 1
        self.labels_required = labels_required and not multi_class
        names = ['PATH', *(name.upper() for name in columns[1:])]
        names.append('LABELS' if multi_class else 'LABEL')
        self.form = (delimiter or ' ').join(names)
        self.samples: list[dict] = []
        self.lines = array('Q')  # of the samples
        self.here = os.path.join(os.getcwd(), '')
        self.seen: dict[Any, int] = {}
        self.repeated = 0
        self.largest_label = (-1, 0)

    def add(self, number: int, line: str | ValueError) -> None:
        """Add a sample, unless its line is wrong."""
        if isinstance(line, ValueError):
            raise _WrongLine(str(line))
        sample = self._parse(line)
        label = sample['label']
        largest = max(label, default=-1) if self.multi_class else label
        if largest > self.largest_label[0]:
            self.largest_label = largest, number
        if not self.multi_class and self.samples:
            before = self.samples[0]['label']
            if (label == -1) != (before == -1):
                labelled = 'no label' if before == -1 else 'a label'
                raise _WrongLine(f'{_short(line)} is unlike line {self.lines[0]}, with {labelled}')
        key = self._key(sample)
        index = self.seen.setdefault(key, len(self.samples))
        if index < len(self.samples):
            before = self.samples[index]['label']
            if before != label:
                raise _WrongLine(
                    f'{_short(sample[self.columns[0]])} has the label {label}, but {before} in '
                    f'line {self.lines[index]}'
                )
            self.repeated += 1
        self.samples.append(sample)
        self.lines.append(number)

    def _key(self, sample: dict) -> Any:
        """What tells samples apart: clips of one video may have labels of their own."""
        path = sample[self.columns[0]]
        plain = os.path.normpath(path).removeprefix(self.here)
        if plain == path:
            plain = path  # of two equal texts one goes
        if 'offset' in sample:
            return plain, sample['offset'], sample['total_frames']
        return plain

    def _parse(self, line: str) -> dict:
        fields = line.split(self.delimiter)
        count = len(self.columns)
        labels = fields[count:]
        too_few = len(fields) < count or (self.labels_required and not labels)
        if too_few or (len(labels) > 1 and not self.multi_class):
            hint = ''
            if not too_few and self.delimiter in (' ', None):
                hint = '; a path with spaces needs another separator, such as delimiter=","'
            raise _WrongLine(f'{_short(line)} is not of the form {self.form!r}{hint}')
        sample: dict = {self.columns[0]: self._path(fields[0])}
        for name, field in zip(self.columns[1:], fields[1:], strict=False):
            smallest = 0 if name == 'offset' else 1
            sample[name] = _number(f'the {name}', field, smallest, MAX_NUMBER)
        numbers = [_number('the label', field, 0, self.max_label) for field in labels]
        sample['label'] = numbers if self.multi_class else numbers[0] if numbers else -1
        return sample

    def _path(self, name: str) -> str:
        if not name:
            raise _WrongLine('it has no path')
        if _UNUSUAL.search(name):
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
                raise _WrongLine(f'the path {_short(name)} has a control character')
            if self.root:
                self._stay_inside(name)
        return os.path.join(self.root, name) if self.root else name

    def _stay_inside(self, name: str) -> None:
        """Refuse what leaves the root here or on another system."""
        parts = name.replace('\\', '/').split('/')
        if os.path.isabs(name):
            inside = PurePath(os.path.abspath(name)).is_relative_to(os.path.abspath(self.root))
        else:
            inside = parts[0] != '' and not ntpath.splitdrive(name)[0]
        if not inside or '..' in parts:
            raise _WrongLine(f'{_short(name)} leaves the data root {self.root!r}')


def _number(what: str, text: str, smallest: int, largest: int) -> int:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = int(text)
        if smallest <= number <= largest:
            return number
    raise _WrongLine(f'{what} {_short(text)} is no whole number from {smallest} to {largest}')


def _short(text: str) -> str:
    """The text as Python writes it, harmless in a terminal; a long one without its middle."""
    return repr(text if len(text) <= 80 else f'{text[:30]}...{text[-47:]}')
