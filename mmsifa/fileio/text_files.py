"""Text files and file names of people, in whatever way their systems write them; tables."""

import codecs
import io
import os
import re
from collections.abc import Iterator

MAX_LINE = 1 << 16  # characters; what is no text may be one endless line
_NO_TEXT = re.compile('[\0\udc80-\udcff]')  # with the bytes that are not UTF-8
# What no line of a text can hold, and a backslash that would be taken for an escape's.
_ESCAPED = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]|\\(?=x[0-9a-f]{2})')


def numbered_lines(path: str | os.PathLike) -> Iterator[tuple[int, str | ValueError]]:
    r"""Read a text file line by line, as any editor saves it.

    It is UTF-8, with or without a byte order mark, or UTF-16 with one; lines end in LF, CRLF or CR.

    Args:
        path: The file, on a disk or any other of MMEngine's storage backends.

    Yields:
        The number of each line, from 1, and its text without the white space around it, or an
        error that says why there is none.

    Raises:
        OSError: If the file cannot be read.

    Example:
        >>> file = getfixture('tmp_path') / 'list.txt'
        >>> _ = file.write_bytes(b'\xef\xbb\xbfrun\r\n\r\nna\xefve\r\n')
        >>> list(numbered_lines(file))
        [(1, 'run'), (2, ''), (3, ValueError("b'na\\xefve' is not UTF-8"))]
    """
    from mmengine.fileio import get_local_path

    with get_local_path(path) as local, open(local, 'rb') as raw:
        marked = raw.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = 'utf-16' if marked else 'utf-8'
        file = io.TextIOWrapper(raw, encoding, errors='surrogateescape')
        number = 0
        while True:
            number += 1
            try:
                line = file.readline(MAX_LINE)
            except UnicodeDecodeError:
                yield number, ValueError('it is not UTF-16, as the byte order mark says')
                return
            if not line:
                return
            if len(line) == MAX_LINE and not line.endswith('\n'):
                yield number, ValueError(f'it has {MAX_LINE} characters or more, as no text has')
                return
            yield number, _text(line)


def read_lines(path: str | os.PathLike) -> list[str]:
    """Read the lines of a text file, as :func:`numbered_lines` does, but for blank ones at its end.

    Args:
        path: The file.

    Returns:
        The lines without the white space around them.

    Raises:
        ValueError: If it is no text; the message names the line.
        OSError: If the file cannot be read.
    """
    lines = []
    for number, line in numbered_lines(path):
        if isinstance(line, ValueError):
            raise ValueError(f'{path} is no text in UTF-8 or UTF-16, line {number}: {line}')
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def check_delimiter(delimiter: str) -> None:
    """Raise a ValueError if a list cannot have this between its columns.

    Args:
        delimiter: What separates them.
    """
    if not delimiter or re.search(r'[\d\r\n]', delimiter):
        raise ValueError(
            f'the delimiter must have a character, and no digit or line break, got {delimiter!r}'
        )


def escape_path(path: str | os.PathLike) -> str:
    r"""Write a path as one line of text, whatever bytes are in it.

    A byte that is not UTF-8, of a control character or of a line break becomes ``\xHH``, as does
    the backslash of a name that looks so already; all other paths stay as they are. To turn
    every ``\xHH`` into its byte gives the path again.

    Args:
        path: The path.

    Returns:
        The text.

    Example:
        >>> escape_path(os.fsdecode(b'b_\xca\xd3.mp4')), escape_path('视频.mp4')
        ('b_\\xca\\xd3.mp4', '视频.mp4')
    """
    return _ESCAPED.sub(
        lambda found: ''.join(f'\\x{byte:02x}' for byte in _bytes(found[0])), os.fspath(path)
    )


def row(cells: tuple[str, ...] | list[str]) -> str:
    """Format a row of a Markdown table."""
    return '| ' + ' | '.join(cells) + ' |\n'


def table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Format a Markdown table.

    Args:
        head: Names of the columns.
        rows: The cells.
        words: How many columns, the first ones, are words; the others are numbers. Default: 1.

    Returns:
        The lines.

    Example:
        >>> print(table(['model', 'top-1'], [['SIFA', '0.9']]), end='')
        | model | top-1 |
        | --- | ---: |
        | SIFA | 0.9 |
    """
    ruler = ['---'] * words + ['---:'] * (len(head) - words)
    return ''.join(map(row, [head, ruler, *rows]))


def _text(line: str) -> str | ValueError:
    text = line.lstrip('\ufeff').strip()
    if not _NO_TEXT.search(text):
        return text
    what = 'has the character NUL, as no text has' if '\0' in text else 'is not UTF-8'
    return ValueError(f'{_bytes(text)[:40]!r} {what}')


def _bytes(text: str) -> bytes:
    """The bytes that text was decoded from."""
    return text.encode('utf-8', 'surrogateescape')
