"""Pictures of where a network looks for what moves, and where that went."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mmsifa.apis.inspection import LayerAttention
from mmsifa.apis.inspection.figure import draw_samples, finest_layer, mark_query
from mmsifa.apis.inspection.records import Position, to_pixels
from study.charts import small_png
from study.offsets import Places, Seen, compare_places

TRUE, ATTENDED = '#00e05a', '#00b7ff'
MARK: Any = dict(ms=6, mec='k', mew=0.6)


class Case(NamedTuple):
    """A position of a clip, with what a layer did there.

    Attributes:
        frames: Frames t and t + 1.
        layer: The layer.
        position: The position, in frame t.
        places: Where things move and where the layer looks.
        displacement: The clip's, in pixels per frame.
    """

    frames: NDArray[np.uint8]
    layer: LayerAttention
    position: Position
    places: Places
    displacement: float

    def error(self) -> float:
        """Return the distance of the attended from the true place, in pixels."""
        return float(self.places.error()[self.position])


def find_cases(seen: Sequence[Seen], least: float = 4) -> list[Case]:
    """Take a position from each clip, where a recognizer's finest layer is neither best nor worst.

    Args:
        seen: What :func:`~study.offsets.watch` returns.
        least: The least displacement of a clip in pixels per frame. Default: 4.

    Returns:
        For each clip the position of the median error, ordered by that.
    """
    cases = []
    for scene, displacement, layers, _ in seen:
        if displacement < least:
            continue
        layer = finest_layer(layers)
        places = compare_places(layer, scene)
        counted = np.argwhere(places.counted)
        if not len(counted):
            continue
        order = places.error()[places.counted].argsort(kind='stable')
        position = Position(*counted[order[len(order) // 2]].tolist())
        frames = scene.render()[position.pair : position.pair + 2]
        cases.append(Case(frames, layer, position, places, displacement))
    return sorted(cases, key=Case.error)


def draw_cases(cases: Sequence[Case], count: int = 4) -> bytes:
    """Draw the cases of the smallest and of the largest error.

    Args:
        cases: What :func:`find_cases` returns.
        count: How many of each, at most. Default: 4.

    Returns:
        A PNG file: in two rows, frame t with the position beside frame t + 1 with the samples, the
        place that is attended to and the true one.

    Raises:
        ValueError: If there are fewer than two cases.
    """
    count = min(count, len(cases) // 2)
    if not count:
        raise ValueError(f'expected two cases or more to draw, got {len(cases)}')
    with matplotlib.rc_context({'font.size': 7}):
        figure = Figure(figsize=(2.6 * count, 3.1))
        parts = figure.subfigures(3, count, height_ratios=(1, 1, 0.13), squeeze=False)
        for row, chosen in zip(parts, (cases[:count], cases[-count:]), strict=False):
            for part, case in zip(row, chosen, strict=True):
                _draw(part, case)
        figure.legend(
            handles=[
                _mark('P', TRUE, 'where it moves'),
                _mark('D', ATTENDED, 'where the layer looks, on average'),
                _mark('o', '#d62728', 'samples, by weight'),
            ],
            loc='lower center',
            ncols=3,
            frameon=False,
        )
        return small_png(figure)


def _mark(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], marker=marker, color=colour, label=label, ls='none', **MARK)


def _draw(part: Any, case: Case) -> None:
    now, following = part.subplots(1, 2)
    part.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.9, wspace=0.04)
    size = case.frames.shape[1:3]
    now.imshow(case.frames[0])
    mark_query(now, case.layer, case.position, size)
    draw_samples(following, case.frames[1], case.layer, case.position, case.layer.signed())
    mark_query(following, case.layer, case.position, size, faint=True)
    pair, y, x = case.position
    for places, marker, colour in (
        (case.places.true, 'P', TRUE),
        (case.places.attended, 'D', ATTENDED),
    ):
        sides = zip(places[pair, :, y, x], case.places.counted.shape[1:], size, strict=True)
        down, right = (float(to_pixels(*side)) for side in sides)
        following.plot(right, down, marker, color=colour, zorder=8, **MARK)
    for axes in (now, following):
        axes.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    now.set_title(f'{case.displacement:g} pixels per frame', fontsize=7, pad=2)
    following.set_title(f'{case.error():.1f} pixels off', fontsize=7, pad=2)
