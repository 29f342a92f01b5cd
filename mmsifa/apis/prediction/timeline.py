"""Predictions along a video, as a picture."""

import io
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mmsifa.apis.prediction.scores import Prediction, VideoResult
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import escape_path


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours where there are any.

    Example:
        >>> clock(75), clock(3675), clock(0.5)
        ('1:15', '1:01:15', '0:00.5')
    """
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f'{hours}:{minutes:02}' if hours else f'{minutes}'
    return f'{text}:{tenths // 10:02}' + (f'.{tenths % 10}' if tenths % 10 else '')


def spans(predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """Return the seconds of a video for which each window's prediction is the nearest.

    Where windows overlap, the time half-way between the middles of two of them parts them.

    Args:
        predictions: Those of a video's windows, in order.

    Returns:
        Start and end of each.
    """
    windows = [prediction.window for prediction in predictions if prediction.window]
    middles = [(window.start + window.end) / 2 for window in windows]
    borders = [(a + b) / 2 for a, b in pairwise(middles)]
    starts = [max(w.start, b) for w, b in zip(windows, [-np.inf, *borders], strict=True)]
    ends = [min(w.end, b) for w, b in zip(windows, [*borders, np.inf], strict=True)]
    return list(zip(starts, ends, strict=True))


def best_runs(predictions: Sequence[Prediction]) -> list[tuple[float, float, int, float]]:
    """Join neighbouring windows that have the same best class.

    Args:
        predictions: Those of a video's windows, in order.

    Returns:
        Start and end in seconds, the class, and its mean score.
    """
    runs: list[tuple[float, float, int, list[float]]] = []
    for (start, end), prediction in zip(spans(predictions), predictions, strict=True):
        index, score = prediction.top(1)[0]
        if runs and runs[-1][2] == index and abs(runs[-1][1] - start) < 1e-6:
            runs[-1] = (runs[-1][0], end, index, [*runs[-1][3], score])
        else:
            runs.append((start, end, index, [score]))
    return [(start, end, index, float(np.mean(scores))) for start, end, index, scores in runs]


def draw_timeline(
    path: str | Path, result: VideoResult, names: Sequence[str], classes: int = 10
) -> None:
    """Draw the scores of the leading classes along a video.

    The rows are the classes that are best in most windows, then those of the highest mean score,
    in the order in which they are first at their best. A line below a cell says that the class is
    the best one there. Parts that could not be read stay white.

    Args:
        path: PNG file to write, at once.
        result: The result of a video with predictions of windows.
        names: Names of the classes.
        classes: How many of them at most. Defaults to 10.
    """
    # Every training imports this module, and Matplotlib takes a second.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    scores = torch.stack([prediction.scores for prediction in result.predictions]).numpy()
    best = scores.argmax(1)
    wins = np.bincount(best, minlength=scores.shape[1])
    rows = sorted(range(scores.shape[1]), key=lambda i: (-wins[i], -scores[:, i].mean()))[:classes]
    rows.sort(key=lambda i: scores[:, i].argmax() if not wins[i] else (best == i).argmax())

    scale = Normalize(0, float(scores[:, rows].max()))
    labels = [textwrap.fill(names[i], 36) for i in rows]
    lines = sum(label.count('\n') + 1 for label in labels)
    figure = Figure(figsize=(13, 1.6 + 0.1 * len(rows) + 0.26 * lines), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # A white gap between windows would hide them where there are hundreds.
    bars = [(start, end - start) for start, end in spans(result.predictions)]
    heights = [label.count('\n') + 1 + 0.4 for label in labels]
    tops = np.cumsum([0, *heights])
    for index, top, height in zip(rows, tops, heights, strict=False):
        colors = colormaps['viridis'](scale(scores[:, index]))
        axes.broken_barh(bars, (top + 0.1, height - 0.2), facecolors=colors, linewidth=0)
        won = [bar for bar, winner in zip(bars, best, strict=True) if winner == index]
        axes.broken_barh(won, (top + height - 0.1, 0.16), color='crimson', linewidth=0)
    end = max(prediction.window.end for prediction in result.predictions if prediction.window)
    axes.set(xlim=(0, end), ylim=(tops[-1] + 0.1, 0), xlabel='time')
    axes.set_title(escape_path(Path(result.video).name), loc='left', parse_math=False)
    axes.set_yticks([(a + b) / 2 for a, b in pairwise(tops)], labels, parse_math=False)
    axes.tick_params(axis='y', length=0)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    steps = [1, 1.5, 3, 6, 10] if end > 60 else [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    figure.colorbar(
        ScalarMappable(scale, 'viridis'),
        ax=axes,
        label='score (red line: best class)',
        pad=0.01,
    )
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    write_atomically(path, content.getvalue())
