"""Pictures of inter-frame attention, for papers and training logs."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mmsifa.apis.inspection.records import (
    Array,
    Inspection,
    LayerAttention,
    Position,
    choose_positions,
    to_pixels,
)
from mmsifa.fileio.atomic_write import write_atomically

QUERY = '#ffe600'
WIDTH = 7.2  # inches: two columns of a paper
LOWEST_ROW = 0.5  # inches: room for the frames' numbers
COLUMNS = (
    'frame t',
    'frame t, enlarged',
    'frame t{:+d}: samples',
    'mean offset',
    'saliency',
    'entropy',
)


def finest_layer(layers: Sequence[LayerAttention]) -> LayerAttention:
    """Choose the layer with the most positions, the last of several.

    Args:
        layers: Layers of one network.

    Returns:
        One of them.
    """
    return max(reversed(layers), key=lambda layer: layer.saliency[0].size)


def flow_colours(flow: Array, largest: float) -> Array:
    """Paint displacements: the hue is the direction, the saturation the length.

    Args:
        flow: (2, H, W), down and to the right.
        largest: The length with full saturation.

    Returns:
        Colours (H, W, 3), from 0 to 1; white where there is no displacement.
    """
    down, right = np.nan_to_num(flow)
    hue = np.arctan2(down, right) / (2 * np.pi) % 1
    saturation = np.clip(np.hypot(down, right) / max(largest, 1e-12), 0, 1)
    return hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=-1))


def summary_figure(inspection: Inspection, layer: str | None = None, count: int = 4) -> Figure:
    """Draw what a layer does at moving positions, a row each.

    A row shows the position in frame t, its neighbourhood in both frames with the K x K samples in
    frame t + 1 (in the place and as large as the undeformed grid small and faint behind), and the
    whole map's mean offset of the K x K taps, motion saliency and entropy of the weights.

    Args:
        inspection: The clip and its layers.
        layer: Name of the layer. Defaults to :func:`finest_layer`.
        count: How many positions, see :func:`choose_positions`. Defaults to 4.

    Returns:
        The figure, 7.2 inches wide.

    Raises:
        ValueError: If there is no such layer.
    """
    shown = _find(inspection.layers, layer)
    positions = choose_positions(inspection, shown, count)
    frame_height, frame_width = inspection.frames.shape[1:3]
    panel = (WIDTH - 0.45) / len(COLUMNS)
    row = max((panel - 0.05) * min(frame_height / frame_width, 1) + 0.05, LOWEST_ROW)
    top, bottom = 0.52, 0.62
    height = top + row * len(positions) + bottom
    figure = Figure(figsize=(WIDTH, height))
    grid = figure.add_gridspec(
        len(positions),
        len(COLUMNS),
        left=0.35 / WIDTH,
        right=1 - 0.06 / WIDTH,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=0.05,
        hspace=0.05,
    )
    offset = shown.offset.mean(axis=1)  # (T - 1, 2, H, W)
    longest = _upper(np.hypot(offset[:, 0], offset[:, 1]))
    darkest, brightest = np.nanpercentile(shown.saliency, (1, 99)).tolist()
    entropy = shown.entropy().mean(axis=1)
    signed = shown.signed()
    way = 1 if shown.frames[0] < shown.frames[-1] else -1  # ahead or behind
    rows = grid.subplots(squeeze=False)
    for i, (position, axes) in enumerate(zip(positions, rows, strict=True)):
        t, following = shown.frames[position.pair : position.pair + 2]
        view = _view(shown, position, frame_height, frame_width, (panel - 0.05) / (row - 0.05))
        axes[0].imshow(inspection.frames[t])
        axes[1].imshow(inspection.frames[t])
        draw_samples(axes[2], inspection.frames[following], shown, position, signed)
        extent = (-0.5, frame_width - 0.5, frame_height - 0.5, -0.5)
        axes[3].imshow(flow_colours(offset[position.pair], longest), extent=extent)
        axes[4].imshow(
            shown.saliency[position.pair], cmap='magma', vmin=darkest, vmax=brightest, extent=extent
        )
        axes[5].imshow(entropy[position.pair], cmap='viridis', vmin=0, vmax=1, extent=extent)
        for j, axis in enumerate(axes):
            zoomed = j in (1, 2)
            axis.set(xticks=[], yticks=[], facecolor='0.85')
            if zoomed:
                axis.set(xlim=view[:2], ylim=view[2:])
            mark_query(axis, shown, position, inspection.frames.shape[1:3], faint=j == 2)
            if not zoomed:
                left, right, low, high = view
                colour = QUERY if j == 0 else '0.5'
                axis.add_patch(
                    Rectangle((left, high), right - left, low - high, fill=False, ec=colour, lw=0.6)
                )
                axis.set(xlim=extent[:2], ylim=extent[2:])
            if i == 0:
                axis.set_title(COLUMNS[j].format(way), fontsize=7, pad=3)
        label = f'{t} → {following}'
        if inspection.times:
            label = f'{inspection.times[t]:.2f} s\n{label}'
        axes[0].set_ylabel(label, fontsize=7, labelpad=3)
    _legends(figure, way, signed, longest, Normalize(darkest, brightest), panel, height)
    _title(figure, inspection, shown, height)
    return figure


def draw_samples(
    axes: Axes, frame: NDArray, layer: LayerAttention, position: Position, signed: bool = True
) -> None:
    """Draw the K x K samples of a position in frame t + 1, and how many lie outside of it.

    Args:
        axes: Where to draw.
        frame: Frame t + 1, (height, width, 3).
        layer: The layer.
        position: The position.
        signed: Whether colours tell negative weights from positive ones. Defaults to True.
    """
    pair, y, x = position
    axes.imshow(frame)
    grid = _pixels(layer.grid()[:, :, y, x], layer, frame.shape[:2])
    points = _pixels(layer.positions()[pair, :, :, y, x], layer, frame.shape[:2])
    weights = layer.weights[pair, :, :, y, x].mean(axis=0)
    outside = layer.outside()[pair, :, y, x]
    share = weights / max(np.abs(weights).max(), 1e-12)
    for colour, width in (('k', 0.9), ('w', 0.4)):
        faint: Any = dict(lw=width, alpha=0.6, zorder=2)
        lines = np.stack([grid, points], axis=1)[:, :, ::-1]
        axes.add_collection(LineCollection(list(lines), colors=colour, **faint), autolim=False)
        axes.scatter(grid[:, 1], grid[:, 0], s=5, fc='none', ec=colour, **faint)
    colours, norm = weight_colours(signed)
    seen = ~outside
    axes.scatter(
        points[seen, 1],
        points[seen, 0],
        s=4 + 36 * np.abs(share[seen]),
        c=share[seen],
        cmap=colours,
        norm=norm,
        ec='k',
        lw=0.4,
        zorder=4,
    )
    axes.scatter(points[outside, 1], points[outside, 0], s=9, marker='x', c='0.4', lw=0.6, zorder=4)
    if outside.any():
        axes.text(
            *(0.03, 0.03, f'{outside.sum()} of {len(outside)} outside'),
            transform=axes.transAxes,
            fontsize=5.5,
            bbox=dict(fc='w', ec='none', alpha=0.75, pad=1),
            zorder=5,
        )


def weight_colours(signed: bool) -> tuple[str, Normalize]:
    """Choose the colours of weights that were divided by the largest magnitude.

    Args:
        signed: Whether there are negative ones.

    Returns:
        Name of the colour map and its range.
    """
    return ('RdBu_r', Normalize(-1, 1)) if signed else ('YlOrRd', Normalize(0, 1))


def mark_query(
    axes: Axes,
    layer: LayerAttention,
    position: Position,
    frame_size: tuple[int, int],
    faint: bool = False,
) -> None:
    """Draw a square around the feature pixel of a position.

    Args:
        axes: Where to draw, in pixels of the frame.
        layer: The layer.
        position: The position.
        frame_size: Height and width of the frame.
        faint: Whether it is dashed and behind the samples. Defaults to False.
    """
    style: Any = dict(ls='--', zorder=1) if faint else dict(zorder=6)
    corner = np.array([position[1:]]) - 0.5
    (low, left), (high, right) = _pixels(np.concatenate([corner, corner + 1]), layer, frame_size)
    for colour, width in (('k', 1.6), (QUERY, 0.8)):
        axes.add_patch(
            Rectangle(
                (left, low), right - left, high - low, fill=False, ec=colour, lw=width, **style
            )
        )


def write_summary(
    inspection: Inspection, path: str | Path, layer: str | None = None, dpi: int = 300
) -> None:
    """Write :func:`summary_figure` as a file that is whole or not there.

    Args:
        inspection: The clip and its layers.
        path: The file, PNG, PDF or SVG by its ending; missing folders are made.
        layer: Name of the layer. Defaults to the finest.
        dpi: Pixels per inch, of the frames and maps also in a PDF. Defaults to 300, for print.

    Raises:
        ValueError: If there is no such layer or the ending is another one.
        OSError: If the file cannot be written.
    """
    kind = Path(path).suffix.lower().removeprefix('.')
    if kind not in ('png', 'pdf', 'svg'):
        raise ValueError(f'expected a file that ends in .png, .pdf or .svg, got {path}')
    content = BytesIO()
    summary_figure(inspection, layer).savefig(content, format=kind, dpi=dpi)
    write_atomically(path, content.getvalue())


def figure_to_image(figure: Figure, dpi: int = 150) -> NDArray[np.uint8]:
    """Draw a figure into an array, as visualization backends take it.

    Args:
        figure: The figure.
        dpi: Pixels per inch. Defaults to 150.

    Returns:
        The picture (height, width, 3), RGB.
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _find(layers: Sequence[LayerAttention], name: str | None) -> LayerAttention:
    if name is None:
        return finest_layer(layers)
    for layer in layers:
        if layer.name == name:
            return layer
    names = ', '.join(layer.name for layer in layers)
    raise ValueError(f'there is no layer {name}; there are {names}')


def _pixels(points: Array, layer: LayerAttention, frame_size: tuple[int, int]) -> Array:
    """Map rows and columns (N, 2) on a layer's map to pixels of the frame."""
    sides = zip(points.T, layer.saliency.shape[1:], frame_size, strict=True)
    return np.stack([to_pixels(*side) for side in sides], axis=1)


def _upper(values: Array) -> float:
    """Return the end of a colour scale that a few extremes do not stretch."""
    return max(float(np.nanpercentile(values, 99)), 1e-6)


def _view(
    layer: LayerAttention, position: Position, height: int, width: int, aspect: float
) -> tuple[float, float, float, float]:
    """Return left, right, lower and upper end of what is enlarged: all samples in the frame.

    It is around the position, but moved where more than 1.5 feature pixels beyond the frame showed.
    Then it is widened or heightened until width over height is ``aspect``.
    """
    pair, y, x = position
    sides = np.array(layer.saliency.shape[1:])
    reach = np.abs(layer.positions()[pair, :, :, y, x] - np.array([y, x])).max(axis=1)
    reach = reach[~layer.outside()[pair, :, y, x]]
    half = max(layer.dilation * (layer.kernel_size // 2), *reach.tolist(), 0) + 1.5
    half = np.minimum(half, sides / 2 + 1.5)
    least = np.minimum(half - 2, (sides - 1) / 2)
    centre = np.clip([y, x], least, sides - 1 - least)
    (low, left), (high, right) = _pixels(
        np.stack([centre - half, centre + half]), layer, (height, width)
    )
    tall, wide = high - low, right - left
    tall, wide = max(tall, wide / aspect) - tall, max(wide, tall * aspect) - wide
    return left - wide / 2, right + wide / 2, high + tall / 2, low - tall / 2


def _legends(
    figure: Figure,
    way: int,
    signed: bool,
    longest: float,
    saliency: Normalize,
    panel: float,
    height: float,
) -> None:
    def place(column: int, low: float, tall: float):
        left = 0.35 + column * panel + 0.08
        size = ((panel - 0.16) / WIDTH, tall / height)
        return figure.add_axes((left / WIDTH, low / height, *size))

    bars = (
        (2, weight_colours(signed), 'weight / largest of position'),
        (4, ('magma', saliency), f'mean |m$_{{t{way:+d}}}$|'),
        (5, ('viridis', Normalize(0, 1)), 'one tap … all alike'),
    )
    for column, (colours, norm), meaning in bars:
        axes = place(column, 0.42, 0.08)
        bar = figure.colorbar(
            ScalarMappable(norm, colormaps[colours]), cax=axes, orientation='horizontal'
        )
        ticks = np.linspace(*bar.ax.get_xlim(), 3).tolist()
        bar.set_ticks(ticks, labels=_alike(ticks), fontsize=6)
        bar.ax.tick_params(length=2, pad=1)
        for label, alignment in zip(
            bar.ax.get_xticklabels(), ('left', 'center', 'right'), strict=True
        ):
            label.set(horizontalalignment=alignment)
        bar.set_label(meaning, fontsize=6, labelpad=1)
    wheel = place(3, 0.06, 0.5)
    side = np.linspace(-1, 1, 101)
    right, down = np.meshgrid(side, side)
    disk = flow_colours(np.stack([down, right]), 1)
    disk[np.hypot(down, right) > 1] = 1
    wheel.imshow(disk, extent=(-1, 1, 1, -1))
    wheel.set(xlim=(-1, 3.4))
    wheel.axis('off')
    wheel.text(1.3, 0, f'rim: {_short(longest)}\nfeature\npixels', fontsize=6, va='center')


def _short(number: float) -> str:
    """Format a number with two or three digits, without an exponent where it has up to five."""
    return f'{number:.0f}' if 100 <= abs(number) < 1e5 else f'{number:.2g}'


def _alike(numbers: Sequence[float]) -> list[str]:
    """Format numbers with the decimals that the largest needs for two digits, if any."""
    largest = max(map(abs, numbers))
    if not 1e-4 <= largest < 1e5:
        return [_short(number) for number in numbers]
    decimals = max(0, 1 - int(np.floor(np.log10(largest))))
    return [f'{number:.{decimals}f}' for number in numbers]


def _title(figure: Figure, inspection: Inspection, layer: LayerAttention, height: float) -> None:
    rows, columns = layer.saliency.shape[1:]
    shown = [inspection.video[:70]]
    if inspection.scores:
        shown.append('{:.50}, {:.1%}'.format(*inspection.scores[0]))
    where = f'{inspection.config[:40]}   |   {layer.name[-60:]}, {rows} x {columns}'
    text = '   |   '.join(shown) + '\n' + where
    # A $ in a name is no mathematics.
    figure.text(0.5, 1 - 0.32 / height, text, fontsize=7, ha='center', parse_math=False)
