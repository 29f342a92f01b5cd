"""The results of a study as Markdown tables."""

from mmsifa.apis.analysis.report_pages import millions, table
from study.charts import block_name
from study.networks import NETWORKS, TRUNKS
from study.offsets import MEASURES
from study.plan import TASKS, VIDEO_TASKS

# What the configs call what is in test clips alone.
DISTURBANCES = {
    'camera': 'a moving camera',
    'nonrigid': 'moving parts',
    'light': 'changing light',
}


def tables(summary: dict) -> str:
    """Write a summary as Markdown tables.

    Args:
        summary: What :func:`~study.results.summarize` returns.

    Returns:
        The tables: accuracy and cost, then for each task accuracy by displacement and by
        what training clips have not, and the offsets at the largest displacement.
    """
    blocks = [overview(summary)]
    for task, entry in summary['tasks'].items():
        title = (TASKS | VIDEO_TASKS)[task]
        by_displacement = {
            model: values['by_displacement']
            for model, values in entry['models'].items()
            if values['by_displacement']
        }
        if by_displacement:
            columns = list(next(iter(by_displacement.values())))
            head = [f'{title}: top-1 %, by pixels per frame', *columns]
            rows = [
                [NETWORKS[model].title, *(_percent(values[column]) for column in columns)]
                for model, values in by_displacement.items()
            ]
            blocks.append(table(head, rows))
        disturbed = {m: v['disturbed'] for m, v in entry['models'].items() if v['disturbed']}
        if disturbed:
            names = list(next(iter(disturbed.values())))
            rows = [
                [
                    NETWORKS[model].title,
                    _percent(entry['models'][model]['top1']),
                    *(_percent(values[name]) for name in names),
                ]
                for model, values in disturbed.items()
            ]
            head = [f'{title}: top-1 %, by what only test clips have', 'nothing']
            blocks.append(table(head + [DISTURBANCES.get(name, name) for name in names], rows))
        offsets = {m: v['offsets'] for m, v in entry['models'].items() if v['offsets']}
        if offsets:
            largest = max(record['displacement'] for record in next(iter(offsets.values())))
            rows = [
                [
                    *(NETWORKS[model].title, block_name(record['layer'])),
                    *(_mean(record, name) for name in MEASURES[:-1]),
                    f'{record["outside"]["mean"]:.0%}',
                ]
                for model, records in offsets.items()
                for record in records
                if record['displacement'] == largest
            ]
            head = [
                f'{title}, {largest:g} pixels per frame: pixels from the true place',
                *('layer', 'attended place', 'no motion', 'best linear'),
                *('nearest sample', 'nearest without offsets', 'samples outside'),
            ]
            blocks.append(table(head, rows, 2))
    return '\n'.join(blocks)


def overview(summary: dict) -> str:
    """Write the accuracy and the cost of each network as a Markdown table.

    Args:
        summary: What :func:`~study.results.summarize` returns.

    Returns:
        The table, and below it the chance and what the runs took.
    """
    tasks, costs = summary['tasks'], (summary['costs'] or {}).get('models', {})
    head = ['model']
    head += [f'{(TASKS | VIDEO_TASKS)[task]}, top-1 %' for task in tasks]
    head += ['seeds', 'minutes of a run', 'parameters', 'million multiply-adds']
    head += ['clips/s', 'clips/s, training']
    rows = []
    for model, network in NETWORKS.items():
        entries = [entry['models'].get(model) for entry in tasks.values()]
        found = [entry for entry in entries if entry]
        if not found:
            continue
        cells = [_percent(entry['top1']) if entry else '-' for entry in entries]
        cells.append(str(max(len(entry['seeds']) for entry in found)))
        cells.append(f'{sum(e["seconds"]["mean"] for e in found) / len(found) / 60:.1f}')
        cost = costs.get(model)
        cells += [f'{cost["parameters"]:,}', millions(cost['multiply_adds'])] if cost else ['-'] * 2
        for name in ('forward', 'training step'):
            cells.append(f'{cost[name]:,.0f}' if cost and name in cost else '-')
        rows.append([network.title, *cells])
    chances = [
        f'{(TASKS | VIDEO_TASKS)[task]} {entry["chance"]:.1%}' for task, entry in tasks.items()
    ]
    trunks = [
        f'{TRUNKS[model].title} {trunk["top1"]:.1%} after {trunk["iterations"]:,} iterations'
        for model, trunk in summary['pretraining'].items()
    ]
    models = [model for entry in tasks.values() for model in entry['models'].values()]
    count = len(trunks) + sum(len(model['seeds']) for model in models)
    seconds = sum(trunk['seconds'] for trunk in summary['pretraining'].values())
    seconds += sum(len(model['seeds']) * model['seconds']['mean'] for model in models)
    duration = f'{seconds / 3600:.1f} hours' if seconds > 3600 else f'{seconds / 60:.1f} minutes'
    return (
        f'{table(head, rows)}\n'
        'Held-out accuracy: mean over the seeds ± standard deviation. Chance: '
        f'{", ".join(chances)}.'
        + (f' On single frames: {", ".join(trunks)}.' if trunks else '')
        + f' All {count} runs together took {duration}, one after another.\n'
    )


def _percent(spread: dict[str, float]) -> str:
    text = f'{100 * spread["mean"]:.1f}'
    if spread['std']:
        text += f' ± {100 * spread["std"]:.1f}'.replace(' ', '\N{NO-BREAK SPACE}')
    return text


def _mean(record: dict, name: str) -> str:
    return f'{record[name]["mean"]:.1f}' if name in record else '-'
