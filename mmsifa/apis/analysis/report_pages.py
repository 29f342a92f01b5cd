"""Reports as Markdown and as a picture."""

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from mmsifa.apis.analysis.complexity import PARTS, by_part, total
from mmsifa.apis.analysis.measurement import PASSES
from mmsifa.fileio.text_files import table

COLOURS = {
    'trunk': '#8da0b6',
    'offsets': '#e0a030',
    'inter-frame attention': '#c0392b',
    'neck': '#5b8c5a',
    'head': '#6c5b7b',
}


def millions(number: float) -> str:
    """Format a number in millions.

    Example:
        >>> millions(43_900_000)
        '43.9'
    """
    return f'{number / 1e6:.1f}'


def billions(number: float) -> str:
    """Format a number in billions, with two digits where one place says too little.

    Example:
        >>> billions(24_600_000_000), billions(85_000_000)
        ('24.6', '0.085')
    """
    return f'{number / 1e9:.1f}' if number > 1e9 else f'{number / 1e9:.2g}'


def around_markers(text: str, name: str, start: str, end: str) -> tuple[str, str]:
    """Return what a page has before and after the part that a tool writes.

    Args:
        text: The page.
        name: Its name, for the message.
        start: The line before that part.
        end: The line after it.

    Returns:
        All before the first marker and all after the last one.

    Raises:
        ValueError: If the page does not have each marker once.

    Example:
        >>> around_markers('Costs: <a> old <b>.', 'README.md', '<a>', '<b>')
        ('Costs: ', '.')
    """
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f'{name} must have each marker once: {start} and {end}')
    return text.split(start)[0], text.split(end)[1]


def markdown(report: dict) -> str:
    """Write a report as Markdown tables.

    Args:
        report: What :func:`mmsifa.apis.analysis.make_report` returns.

    Returns:
        The tables: what was counted, then stages, then memory and speed if they were measured;
        what failed comes last.
    """
    models = report['models']
    blocks = []
    if models:
        blocks += [_costs(models), _stages(models)]
    if report['environment']['rounds'] and models:
        blocks += [_machine(report['environment']), _speeds(models)]
    lines = [f'- {f["label"]}, {f["pass"]}: {f["reason"]}\n' for f in report['failed']]
    if lines:
        blocks.append('Failed:\n\n' + ''.join(lines))
    return '\n'.join(blocks)


def _costs(models: list[dict]) -> str:
    head = ['model', 'clip', 'test views', 'parameters, M', 'GMACs', *PARTS]
    rows = []
    for model in models:
        counts = model['multiply_adds']
        parts = [billions(number) if number else '-' for number in by_part(counts).values()]
        words = [model['label'], model['clip'], model['test_views']]
        rows.append([*words, millions(model['parameters']), billions(total(counts)), *parts])
    return table(head, rows, 3)


def _stages(models: list[dict]) -> str:
    rows = []
    for model in models:
        stages = model['multiply_adds'].items()
        sums = (f'{stage} {billions(sum(parts.values()))}' for stage, parts in stages)
        rows.append([model['label'], ', '.join(sums)])
    return table(['model', 'GMACs by stage'], rows, 2)


def _machine(environment: dict) -> str:
    memory = {
        'resident': 'growth of the peak of resident memory, weights included',
        'allocated': 'peak of what PyTorch allocated on the GPU, weights included',
    }
    return (
        f'{environment["device"]}, {environment["threads"]} CPU threads '
        f'({environment["vectors"]}), {environment["dtype"]}, batches of '
        f'{environment["batch_size"]}, PyTorch {environment["torch"]}, mmsifa '
        f'{environment["mmsifa"]}; median of {environment["rounds"]} rounds in which all took '
        f'turns. Memory: {memory[environment["memory"]]}.\n'
    )


def _speeds(models: list[dict]) -> str:
    head = ['model']
    head += [f'{name}, {unit}' for name in PASSES for unit in ('clips/s', 'GiB')]
    head += ['optimizer']
    rows = []
    for model in models:
        cells = [model['label']]
        for name in PASSES:
            if name in model:
                cells.append(f'{model[name]["clips_per_second"]:.3g}')
                cells.append(f'{model[name]["peak_memory"] / 2**30:.2f}')
            else:
                cells += ['failed'] * 2
        rows.append([*cells, model.get('optimizer', '-')])
    return table(head, rows)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file, which does not name the version that drew it."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, metadata={'Software': None})
    return file.getvalue()


def chart(report: dict) -> bytes:
    """Draw a report: multiply-adds by part, and beside them the speeds if they were measured.

    Args:
        report: What :func:`mmsifa.apis.analysis.make_report` returns, of at least one model.

    Returns:
        A PNG file.
    """
    models = report['models']
    timed = bool(report['environment']['rounds'])
    with matplotlib.rc_context({'font.size': 9, 'axes.spines.top': False}):
        figure = Figure(
            figsize=(10 if timed else 7, 1.8 + 0.42 * len(models)), layout='constrained'
        )
        columns = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
        _draw_costs(columns[0], models)
        if timed:
            _draw_speeds(columns[1], models, report['environment'])
        return png(figure)


def _draw_costs(axes, models: list[dict]) -> None:
    left = [0.0] * len(models)
    for part in PARTS:
        widths = [by_part(model['multiply_adds'])[part] / 1e9 for model in models]
        if any(widths):
            axes.barh(range(len(models)), widths, left=left, color=COLOURS[part], label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    for i, model in enumerate(models):
        parts = by_part(model['multiply_adds'])
        sifa = (parts['offsets'] + parts['inter-frame attention']) / sum(parts.values())
        text = billions(sum(parts.values())) + (f' (SIFA {sifa:.1%})' if sifa else '')
        axes.annotate(text, (left[i], i), (4, 0), textcoords='offset points', va='center')
    axes.set_yticks(range(len(models)), [model['label'] for model in models], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(left))
    axes.set_xlabel('GMACs of a clip')
    axes.spines.right.set_visible(False)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=3, frameon=False)


def _draw_speeds(axes, models: list[dict], environment: dict) -> None:
    speeds = []
    for name, marker, above in (('forward', 'o', -1), ('training step', 's', 1)):
        points = [(m[name]['clips_per_second'], i) for i, m in enumerate(models) if name in m]
        axes.plot(*zip(*points, strict=True), marker, label=name) if points else None
        for speed, i in points:
            place = dict(textcoords='offset points', ha='center', va='center', fontsize=7.5)
            axes.annotate(f'{speed:.2g}', (speed, i), (0, -8 * above), **place)
            speeds.append(speed)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_locator(NullLocator())
    if speeds:
        axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)  # with a tick, also of one model
    axes.set_xlabel(
        f'clips per second, {environment["dtype"]}, batches of {environment["batch_size"]}\n'
        f'{environment["device"]}, {environment["threads"]} CPU threads'
    )
    axes.grid(axis='x', alpha=0.25)
    axes.spines.right.set_visible(False)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2, frameon=False)
