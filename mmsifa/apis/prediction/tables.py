"""Predictions as tables, which grow while the work goes on."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmsifa.apis.prediction.scores import Prediction, VideoResult
from mmsifa.fileio.atomic_write import open_unfinished
from mmsifa.fileio.text_files import escape_path


class ResultTable:
    r"""A table of predictions; each row is in the file as soon as it is added.

    Until :meth:`close` the file is called ``.NAME.*.part``, so that nobody takes it for a whole
    one; whoever is killed in between, or has no more room, finds the rows there. Paths are written
    by :func:`~mmsifa.fileio.text_files.escape_path`: bytes that are no UTF-8 as ``\xHH``.

    A ``.csv`` has a line for each of the five best classes of a video or window. The columns are
    video, start, end, rank, class, name and score. Start and end are seconds, empty for whole
    videos; rank 1 is the best. Videos that could not be read have no lines.

    A ``.jsonl`` has an object a line for each video or window: ``video``, for a window also
    ``start`` and ``end`` in seconds, then ``top``, the five best classes as objects of ``class``,
    ``name`` and ``score``, and ``scores``, those of all classes. A video that could not be read,
    or not all of it, has a line with ``video`` and ``error``.

    Args:
        path: The file, ``.csv`` or ``.jsonl``.
        names: Names of the classes.

    Attributes:
        unfinished: What the file is called until it is whole.

    Raises:
        OSError: If it cannot be written, in each of the methods as well.
    """

    def __init__(self, path: str | Path, names: Sequence[str]):
        self.path = Path(path)
        self.names = names
        self._file = open_unfinished(self.path)
        self.unfinished = Path(self._file.name)
        self._result: VideoResult | None = None  # whose rows are the last
        self._written = 0  # of its predictions
        if self.path.suffix.lower() == '.csv':
            self._write(_csv([['video', 'start', 'end', 'rank', 'class', 'name', 'score']]))

    def add(self, result: VideoResult, complete: bool = True) -> None:
        """Append what a result has and the table has not.

        Args:
            result: The result; one that is in the works before the last one is complete waits.
            complete: Whether nothing will be added to it. Defaults to True.
        """
        if self._result not in (None, result):
            return
        rows = _csv_rows if self.path.suffix.lower() == '.csv' else _json_rows
        video = escape_path(result.video)
        text = ''.join(rows(video, new, self.names) for new in result.predictions[self._written :])
        if complete and result.error and rows is _json_rows:
            text += _json({'video': video, 'error': result.error})
        self._write(text)
        self._result = None if complete else result
        self._written = 0 if complete else len(result.predictions)

    def close(self) -> None:
        """Give the file its name."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.unfinished.replace(self.path)

    def _write(self, text: str) -> None:
        self._file.write(text.encode(errors='backslashreplace'))
        self._file.flush()


def _csv_rows(video: str, prediction: Prediction, names: Sequence[str]) -> str:
    window = prediction.window
    times = [f'{window.start:.3f}', f'{window.end:.3f}'] if window else ['', '']
    return _csv(
        [video, *times, rank, index, names[index], f'{score:.6g}']
        for rank, (index, score) in enumerate(prediction.top(), 1)
    )


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def _json_rows(video: str, prediction: Prediction, names: Sequence[str]) -> str:
    window = prediction.window
    times = {'start': window.start, 'end': window.end} if window else {}
    top = [
        {'class': index, 'name': names[index], 'score': score} for index, score in prediction.top()
    ]
    return _json({'video': video, **times, 'top': top, 'scores': prediction.scores.tolist()})


def _json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + '\n'
