"""The pictures of a study: charts of its results, and cases of what offsets do."""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from mmsifa.apis.analysis.report_pages import png
from mmsifa.apis.inspection import LayerAttention
from mmsifa.apis.inspection.figure import draw_samples, finest_layer, mark_query
from mmsifa.apis.inspection.records import Position, to_pixels
from study.offsets import Places, Seen, compare_places
from study.plan import NETWORKS, TITLES

BEST: Any = dict(ls='--', lw=0.8)
STILL: Any = dict(color='black', ls=':', lw=0.8)
LEGEND: Any = dict(frameon=False, fontsize=8)
MARKERS = dict(resnet='o', swin='s', efficientnet_lite='^')
STYLE: Any = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False}


def small_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file of 256 colours, of half the size or less."""
    picture = Image.open(io.BytesIO(png(figure))).convert('RGB')
    file = io.BytesIO()
    colours = picture.quantize(256, Image.Quantize.FASTOCTREE)
    picture.quantize(palette=colours).save(file, 'png', optimize=True)  # dithered
    return file.getvalue()


def block_name(layer: str) -> str:
    """Name the block that a SIFA layer is in.

    Example:
        >>> block_name('backbone.layers.0.blocks.1.temporal.sifa')
        'layers.0.blocks.1'
        >>> block_name('backbone.layer2.1.temporal_sequential.0')
        'layer2.1'
    """
    name = layer.removeprefix('backbone.')
    return re.sub(r'(\.temporal_sequential\.\d+|\.temporal)?(\.sifa)?$', '', name)


def _is_swin(model: str) -> bool:
    return NETWORKS[model].base == 'swin'


def draw_accuracy(entry: dict) -> bytes:
    """Draw a task's accuracy against the displacement; bars go from the worst seed to the best.

    Args:
        entry: The task's entry in ``tasks`` of a summary.

    Returns:
        A PNG file.
    """

    def draw(axes: Any, models: dict) -> None:
        shifts = 0.035 * (np.arange(len(models)) - (len(models) - 1) / 2)  # side by side
        for shift, (model, values) in zip(shifts, models.items(), strict=True):
            spreads = values['by_displacement'].values()
            means, least, most = (
                100 * np.array([spread[name] for spread in spreads])
                for name in ('mean', 'min', 'max')
            )
            axes.errorbar(
                np.arange(len(means)) + shift,
                means,
                yerr=np.abs([means - least, most - means]),  # rounding may turn 0 negative
                fmt='o-',
                ms=3,
                lw=0.9,
                color=NETWORKS[model].colour,
                label=NETWORKS[model].title,
            )
            axes.set_xticks(range(len(means)), values['by_displacement'])

    return _draw_trunks(
        entry,
        draw,
        chance=100 * entry['chance'],
        across='displacement, pixels per frame',
        up='held-out top-1, %',
        top=102,
    )


def draw_learning(entry: dict) -> bytes:
    """Draw a task's training loss, a line for each seed, beside that of guessing.

    Args:
        entry: The task's entry in ``tasks`` of a summary.

    Returns:
        A PNG file.
    """

    def draw(axes: Any, models: dict) -> None:
        for model, values in models.items():
            for i, losses in enumerate(values['loss']):
                steps = (np.arange(len(losses)) + 0.5) * values['iterations'] / len(losses)
                label = None if i else NETWORKS[model].title
                axes.plot(steps, losses, lw=0.9, color=NETWORKS[model].colour, label=label)

    chance = np.log(1 / entry['chance'])
    return _draw_trunks(entry, draw, chance, across='iterations', up='training loss')


def _draw_trunks(
    entry: dict,
    draw: Callable[[Any, dict], None],
    chance: float,
    across: str,
    up: str,
    top: float | None = None,
) -> bytes:
    """Draw a column for each trunk, in each its models and the level of guessing."""
    bases = dict.fromkeys(NETWORKS[model].base for model in entry['models'])
    trunks = [
        {model: values for model, values in entry['models'].items() if NETWORKS[model].base == base}
        for base in bases
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1 + 4.5 * len(trunks), 5.2), layout='constrained')
        columns = figure.subplots(1, len(trunks), sharey=True, squeeze=False)[0]
        for axes, models in zip(columns, trunks, strict=True):
            axes.grid(axis='y', alpha=0.25)
            draw(axes, models)
            axes.axhline(chance, color='black', lw=0.8, ls=':')
            axes.set_xlabel(across)
            axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=2, **LEGEND)
        columns[0].set_ylabel(up)
        columns[0].set_ylim(0, top)
        return small_png(figure)


def draw_confusion(entry: dict) -> bytes:
    """Draw what a task's models take the clips of each class for, in all seeds together.

    Args:
        entry: The task's entry in ``tasks`` of a summary, with ``classes``.

    Returns:
        A PNG file: a panel for each model, four in a row, with a row of shares for each class.
    """
    models, classes = entry['models'], entry['classes']
    ticks = range(len(classes))
    with matplotlib.rc_context(STYLE):
        columns = min(len(models), 4)
        rows = math.ceil(len(models) / columns)
        figure = Figure(figsize=(1.5 + 2.2 * columns, 0.4 + 3 * rows), layout='constrained')
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in panels[len(models) :]:
            axes.axis('off')
        for axes, (model, values) in zip(panels, models.items(), strict=False):
            counts = np.array(values['confusion'])
            clips = np.maximum(counts.sum(axis=1, keepdims=True), 1)
            shares = axes.imshow(counts / clips, 'Blues', vmin=0, vmax=1)
            axes.set_title(textwrap.fill(NETWORKS[model].title, 30), fontsize=8)
            axes.set_xticks(ticks, classes, rotation=90)
            axes.set_yticks(ticks, classes)
        figure.supxlabel('taken for', fontsize=9)
        figure.colorbar(shares, ax=panels, shrink=0.6, label="share of a class's clips")
        return small_png(figure)


def draw_costs(summary: dict) -> bytes:
    """Draw the accuracy on each task against the multiply-adds.

    Args:
        summary: A summary with ``costs``.

    Returns:
        A PNG file.
    """
    tasks, costs = summary['tasks'], summary['costs']['models']
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 4.5 * len(tasks), 4), layout='constrained')
        for axes, (task, entry) in zip(
            figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True
        ):
            for model, values in entry['models'].items():
                cost = values.get('multiply_adds') or costs.get(model, {}).get('multiply_adds')
                if not cost:
                    continue
                spread = values['top1']
                below, above = spread['mean'] - spread['min'], spread['max'] - spread['mean']
                axes.errorbar(
                    cost / 1e6,
                    100 * spread['mean'],
                    yerr=np.abs([[100 * below], [100 * above]]),
                    fmt=MARKERS[NETWORKS[model].base],
                    color=NETWORKS[model].colour,
                    label=NETWORKS[model].title,
                )
            axes.axhline(100 * entry['chance'], color='black', lw=0.8, ls=':')
            axes.set_title(TITLES[task])
            axes.set_xlabel('million multiply-adds of a clip')
            axes.set_ylabel('held-out top-1, %')
            axes.grid(alpha=0.25)
        for axes in figure.axes:
            axes.set_ylim(0, 102)
        _legend(figure, 'outside right upper')
        return small_png(figure)


def _legend(figure: Figure, place: Any, columns: int = 1) -> None:
    """Name what any of the axes has, once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend([*entries.values()], [*entries], loc=place, ncols=columns, **LEGEND)


def draw_offsets(entry: dict) -> bytes:
    """Draw how far from the true place the layers of a task's models look.

    Args:
        entry: The task's entry in ``tasks`` of a summary.

    Returns:
        A PNG file: a column for each block, above the end-point error, dashed that of the best
        linear prediction, below the distance of the nearest sample, both with what they would be
        without offsets.
    """
    models = {m: values['offsets'] for m, values in entry['models'].items() if values['offsets']}
    blocks = sorted(
        {(_is_swin(m), block_name(record['layer'])) for m in models for record in models[m]}
    )
    kinds = (
        ('attended', 'no_motion', 'end-point error, pixels'),
        ('nearest', 'nearest_undeformed', 'nearest sample, pixels'),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1 + 3 * len(blocks), 6), layout='constrained')
        rows = figure.subplots(2, len(blocks), sharex='col', squeeze=False)
        for places, (measure, baseline, label) in zip(rows, kinds, strict=True):
            for axes, (swin, block) in zip(places, blocks, strict=True):
                for model, records in models.items():
                    chosen = [r for r in records if block_name(r['layer']) == block]
                    if _is_swin(model) != swin or not chosen:
                        continue
                    steps = [f'{record["displacement"]:g}' for record in chosen]
                    means = [record[measure]['mean'] for record in chosen]
                    still = [record[baseline]['mean'] for record in chosen]
                    axes.plot(
                        steps,
                        means,
                        'o-',
                        ms=3.5,
                        color=NETWORKS[model].colour,
                        label=NETWORKS[model].title,
                    )
                    if measure == 'attended' and 'best_linear' in chosen[0]:
                        best = [record['best_linear']['mean'] for record in chosen]
                        axes.plot(steps, best, color=NETWORKS[model].colour, **BEST)
                axes.plot(steps, still, **STILL)
                axes.grid(axis='y', alpha=0.25)
                axes.set_ylim(bottom=0)
            places[0].set_ylabel(label)
        for axes, (_, block) in zip(rows[0], blocks, strict=True):
            axes.set_title(block, fontsize=8)
        for axes in rows[1]:
            axes.set_xlabel('displacement, pixels per frame')
        rows[0][0].plot([], [], color='black', label='best linear prediction', **BEST)
        rows[0][0].plot([], [], label='no motion, no offsets', **STILL)
        _legend(figure, 'outside lower center', columns=min(4, 1 + len(blocks)))
        return small_png(figure)


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
