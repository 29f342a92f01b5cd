"""Predictions as tables."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from mmsifa.apis.prediction import VideoResult
from mmsifa.atomic_write import write_atomically


def write_csv(path: str | Path, results: Sequence[VideoResult], names: Sequence[str]) -> None:
    """Write the five best classes of each video or window, a line each.

    The columns are video, start, end, rank, class, name and score. Start and end are seconds,
    empty for whole videos; rank 1 is the best. Videos that could not be read have no lines.

    Args:
        path: File to write, at once.
        results: The results.
        names: Names of the classes.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(['video', 'start', 'end', 'rank', 'class', 'name', 'score'])
    for result in results:
        for prediction in result.predictions:
            window = prediction.window
            times = [f'{window.start:.3f}', f'{window.end:.3f}'] if window else ['', '']
            for rank, (index, score) in enumerate(prediction.top(), 1):
                table.writerow([result.video, *times, rank, index, names[index], f'{score:.6g}'])
    write_atomically(path, text.getvalue())


def write_jsonl(path: str | Path, results: Sequence[VideoResult], names: Sequence[str]) -> None:
    """Write an object a line for each video or window.

    It has ``video``, for a window also ``start`` and ``end`` in seconds, then ``top``, the five
    best classes as objects of ``class``, ``name`` and ``score``, and ``scores``, those of all
    classes. A video that could not be read, or not all of it, has a line with ``video`` and
    ``error``.

    Args:
        path: File to write, at once.
        results: The results.
        names: Names of the classes.
    """
    lines = []
    for result in results:
        for prediction in result.predictions:
            window = prediction.window
            times = {'start': window.start, 'end': window.end} if window else {}
            top = [
                {'class': index, 'name': names[index], 'score': score}
                for index, score in prediction.top()
            ]
            scores = prediction.scores.tolist()
            lines.append({'video': result.video, **times, 'top': top, 'scores': scores})
        if result.error:
            lines.append({'video': result.video, 'error': result.error})
    text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
    write_atomically(path, text)
