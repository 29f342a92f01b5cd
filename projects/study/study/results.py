"""The results of a study: runs and costs, what they are over the seeds, tables and report."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rich.progress import Progress

from mmsifa.apis.analysis import ReportSettings, make_report, total
from mmsifa.apis.analysis.report_pages import millions
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import table
from study.charts import (
    block_name,
    draw_accuracy,
    draw_confusion,
    draw_costs,
    draw_learning,
    draw_offsets,
)
from study.offsets import MEASURES
from study.plan import (
    IMAGE,
    NETWORKS,
    TASKS,
    TITLES,
    TRUNKS,
    VIDEO_TASKS,
    Run,
    Study,
)


def read_results(out: Path, kind: str = 'full') -> dict:
    """Read what the runs of a study have written.

    Args:
        out: The study's folder, with the ``result.json`` of each run and ``costs.json``, or with
            ``results.json`` alone.
        kind: Which study of ``results.json`` it is, ``'full'`` or ``'quick'``. Default: ``'full'``.

    Returns:
        ``runs``, the results in the order of the plan, each with the name of its ``run``;
        ``costs``, what :func:`measure_costs` returned, None where that is not there; and ``svms``,
        what :func:`~study.measure_svms` returned, None where that is not there.
    """
    files = sorted(out.glob('runs/*/result.json'))
    if not files:
        return _written(out).get(kind, dict(costs=None, svms=None, runs=[]))
    runs = [dict(run=file.parent.name, **json.loads(file.read_text())) for file in files]
    order = [(IMAGE, trunk) for trunk in TRUNKS]
    order += [(task, model) for task in (*TASKS, *VIDEO_TASKS) for model in NETWORKS]
    known = [run for run in runs if _key(run) in order]
    others = {name: out / f'{name}.json' for name in ('costs', 'svms')}
    return dict(
        **{n: json.loads(f.read_text()) if f.is_file() else None for n, f in others.items()},
        runs=sorted(known, key=lambda run: (order.index(_key(run)), run['seed'])),
    )


def _written(out: Path) -> dict[str, dict]:
    """Read the studies of ``results.json``, none if it is not there."""
    file = out / 'results.json'
    return json.loads(file.read_text()) if file.is_file() else {}


def unpack(out: Path, kind: str = 'full') -> None:
    """Let a study that has no run yet go on from its ``results.json``, as if it had made them.

    Args:
        out: The study's folder. If there is no such file, nothing happens.
        kind: ``'full'`` or ``'quick'``. Default: ``'full'``.
    """
    if (out / 'runs').exists():
        return
    results = read_results(out, kind)
    parts = {f'runs/{run.pop("run")}/result.json': run for run in results['runs']}
    parts |= {f'{name}.json': results[name] for name in ('costs', 'svms') if results[name]}
    for name, part in parts.items():
        write_atomically(out / name, json.dumps(part, indent=1, allow_nan=False) + '\n')


def _key(run: dict) -> tuple[str, str]:
    """Task and model of a run."""
    task, model, _ = run['run'].split('-')
    return task, model


def format_results(studies: Mapping[str, dict]) -> str:
    """Write results as JSON, each run in one line.

    Args:
        studies: What :func:`read_results` returned, by kind.

    Returns:
        The text of ``results.json``.

    Example:
        >>> run = dict(run='direction-sifa-0', seed=0, top1=0.5)
        >>> print(format_results({'quick': dict(costs=None, svms=None, runs=[run])}), end='')
        {"quick": {"costs": null, "svms": null, "runs": [
        {"run": "direction-sifa-0", "seed": 0, "top1": 0.5}
        ]}}
    """
    parts = []
    for kind, results in studies.items():
        costs, svms, *runs = (
            json.dumps(part, allow_nan=False)
            for part in (results['costs'], results['svms'], *results['runs'])
        )
        lines = ',\n'.join(runs)
        parts.append(f'"{kind}": {{"costs": {costs}, "svms": {svms}, "runs": [\n{lines}\n]}}')
    return '{' + ',\n'.join(parts) + '}\n'


def summarize(results: dict) -> dict:
    """Average over the seeds.

    Args:
        results: What :func:`read_results` returns.

    Returns:
        ``pretraining``, the ``top1``, ``iterations`` and ``seconds`` of each trunk on single
        frames; ``tasks``, in which each task (the parts of a set of videos are one, in which all
        clips count alike) has its ``chance``, the names of its ``classes`` if it has real videos,
        and for each of its ``models`` ``seeds``, ``top1``,
        ``by_displacement``, ``disturbed``, ``offsets``, ``loss`` (a curve for each seed) over
        ``iterations``, the ``seconds`` of a run and on real videos ``multiply_adds`` and
        ``confusion``, how many clips of each class are taken for each, in all seeds; ``costs``;
        ``svms``. Whatever else differs between seeds is a dict of ``mean``, ``std`` (0 for one
        seed), ``min`` and ``max``.
    """
    groups = defaultdict(list)
    for run in results['runs']:
        task, model = _key(run)
        groups[task.partition('.')[0], model].append(run)
    tasks: dict[str, dict] = {}
    pretraining = {}
    for (task, model), runs in groups.items():
        if task == IMAGE:
            pretraining[model] = {key: runs[0][key] for key in ('top1', 'iterations', 'seconds')}
            continue
        if 'confusion' in runs[0]:
            runs = [_join_parts([r for r in runs if r['seed'] == s]) for s in _seeds(runs)]
        entry = tasks.setdefault(task, dict(chance=1 / runs[0]['num_classes'], models={}))
        entry['models'][model] = dict(
            seeds=[run['seed'] for run in runs],
            top1=_spread([run['top1'] for run in runs]),
            by_displacement={
                displacement: _spread([run['by_displacement'][displacement] for run in runs])
                for displacement in runs[0]['by_displacement']
            },
            disturbed={
                name: _spread([run['disturbed'][name] for run in runs])
                for name in runs[0]['disturbed']
            },
            offsets=_offsets(runs),
            loss=[run['loss'] for run in runs],
            iterations=runs[0]['iterations'],
            seconds=_spread([run['seconds'] for run in runs]),
        )
        if 'confusion' in runs[0]:
            entry['classes'] = runs[0]['classes']
            counts = np.sum([run['confusion'] for run in runs], axis=0)
            entry['models'][model].update(
                confusion=counts.tolist(), multiply_adds=runs[0]['multiply_adds']
            )
    return dict(pretraining=pretraining, tasks=tasks, costs=results['costs'], svms=results['svms'])


def _seeds(runs: list[dict]) -> list[int]:
    return list(dict.fromkeys(run['seed'] for run in runs))


def _join_parts(runs: list[dict]) -> dict:
    """Make one run of those that test the parts of a set of videos, in which all clips count."""
    clips = [sum(map(sum, run['confusion'])) for run in runs]

    def mean(values: Iterable[float]) -> float:
        return sum(n * value for n, value in zip(clips, values, strict=True)) / sum(clips)

    return runs[0] | dict(
        confusion=np.sum([run['confusion'] for run in runs], axis=0),
        top1=mean(run['top1'] for run in runs),
        disturbed={
            name: mean(run['disturbed'][name] for run in runs) for name in runs[0]['disturbed']
        },
        seconds=statistics.fmean(run['seconds'] for run in runs),
    )


def _spread(values: list[float]) -> dict[str, float]:
    return dict(
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else 0.0,
        min=min(values),
        max=max(values),
    )


def _offsets(runs: list[dict]) -> list[dict]:
    groups = defaultdict(list)
    for run in runs:
        for record in run['offsets']:
            groups[record['layer'], record['displacement']].append(record)
    return [
        dict(layer=layer, displacement=displacement)
        | {
            name: _spread([record[name] for record in records])
            for name in MEASURES
            if name in records[0]
        }
        for (layer, displacement), records in groups.items()
    ]


def write_report(out: Path, kind: str = 'full') -> dict:
    """Write ``results.json``, ``table.md`` and the figures of a study.

    Args:
        out: The study's folder, see :func:`read_results`.
        kind: ``'full'`` or ``'quick'``. Default: ``'full'``.

    Returns:
        What :func:`summarize` returns.

    Raises:
        ValueError: If there is no result but of single frames.
    """
    results = read_results(out, kind)
    if all(_key(run)[0] == IMAGE for run in results['runs']):
        raise ValueError(f'there is no result to report in {out}')
    summary = summarize(results)
    if any(out.glob('runs/*/result.json')):  # else it is what was read
        studies = _written(out) | {kind: results}
        write_atomically(out / 'results.json', format_results(studies))
    write_atomically(out / 'table.md', tables(summary))
    for task, entry in summary['tasks'].items():
        write_atomically(out / f'learning_{task}.png', draw_learning(entry))
        if any(model['by_displacement'] for model in entry['models'].values()):
            write_atomically(out / f'accuracy_{task}.png', draw_accuracy(entry))
        if 'classes' in entry:
            write_atomically(out / f'confusion_{task}.png', draw_confusion(entry))
        if any(model['offsets'] for model in entry['models'].values()):
            write_atomically(out / f'offsets_{task}.png', draw_offsets(entry))
    if summary['costs']:
        write_atomically(out / 'costs.png', draw_costs(summary))
    return summary


# What the configs call what is in test clips alone.
DISTURBANCES = {
    'camera': 'a moving camera',
    'nonrigid': 'moving parts',
    'light': 'changing light',
    'shuffled': 'shuffled frames',
    'prepared': 'prepared videos',
}


def tables(summary: dict) -> str:
    """Write a summary as Markdown tables.

    Args:
        summary: What :func:`summarize` returns.

    Returns:
        The tables: accuracy and cost, then for each task of drawn clips accuracy by displacement
        and by what training clips have not, and the offsets at the largest displacement; then
        those of real videos.
    """
    blocks = [overview(summary)]
    for task, entry in _drawn(summary).items():
        title = TITLES[task]
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
        disturbed = {m: v for m, v in entry['models'].items() if v['disturbed']}
        if disturbed:
            names, rows = _disturbed(disturbed)
            head = [f'{title}: top-1 %, by what only test clips have', 'nothing', *names]
            blocks.append(table(head, rows))
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
    return '\n'.join(filter(None, [*blocks, real_tables(summary)]))


def _disturbed(models: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Name the disturbances, and give each model a row: title, accuracy, and that with each."""
    names = list(next(iter(models.values()))['disturbed'])
    rows = [
        [
            NETWORKS[model].title,
            _percent(values['top1']),
            *(_percent(values['disturbed'][name]) for name in names),
        ]
        for model, values in models.items()
    ]
    return [DISTURBANCES.get(name, name) for name in names], rows


def _drawn(summary: dict) -> dict[str, dict]:
    """The tasks of drawn clips."""
    return {task: entry for task, entry in summary['tasks'].items() if 'classes' not in entry}


def real_tables(summary: dict) -> str:
    """Write what came out on real videos as Markdown tables.

    Args:
        summary: What :func:`summarize` returns.

    Returns:
        For each set of videos accuracy and cost, and accuracy by class of the networks with the
        most seeds; an empty text if there are none.
    """
    blocks = []
    for task, entry in summary['tasks'].items():
        if 'classes' not in entry:
            continue
        models, svm = entry['models'], (summary['svms'] or {}).get(task)
        names, rows = _disturbed(models)
        for row, values in zip(rows, models.values(), strict=True):
            row.append(str(len(values['seeds'])))
            row.append(f'{values["seconds"]["mean"] / 60:.1f}')
            row.append(millions(values['multiply_adds']))
        if svm:
            measured = {DISTURBANCES['shuffled']: f'{100 * svm["shuffled"]:.1f}'}
            cells = [measured.get(name, '-') for name in names]
            rows.append(['SVM on frame differences', f'{100 * svm["top1"]:.1f}', *cells, *'---'])
        head = [f'{TITLES[task]}: top-1 %', 'as they are', *names]
        head += ['seeds', 'minutes of a run', 'million multiply-adds']
        counts = {model: np.array(values['confusion']) for model, values in models.items()}
        seeds = {model: len(values['seeds']) for model, values in models.items()}
        clips = max(counts[model].sum() / seeds[model] for model in models)
        blocks.append(
            f'{table(head, rows)}\n'
            f'{clips:.0f} clips; mean over seeds ± standard deviation. '
            f'Chance: {entry["chance"]:.1%}.\n'
        )
        compared = [model for model in models if seeds[model] == max(seeds.values())]
        columns = [
            [f'{100 * row[i] / row.sum():.0f}' if row.any() else '-' for i, row in enumerate(count)]
            for count in (counts[model] for model in compared)
        ]
        rows = [list(row) for row in zip(entry['classes'], *columns, strict=True)]
        head = [f'{TITLES[task]}: top-1 %, by class', *(NETWORKS[m].title for m in compared)]
        blocks.append(table(head, rows))
    return '\n'.join(blocks)


def overview(summary: dict) -> str:
    """Write the accuracy and the cost of each network on drawn clips as a Markdown table.

    Args:
        summary: What :func:`summarize` returns.

    Returns:
        The table, and below it the chance and what the runs took; an empty text if there are none.
    """
    tasks, costs = _drawn(summary), (summary['costs'] or {}).get('models', {})
    if not tasks:
        return ''
    head = ['model']
    head += [f'{TITLES[task]}, top-1 %' for task in tasks]
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
    chances = [f'{TITLES[task]} {entry["chance"]:.1%}' for task, entry in tasks.items()]
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


def measure_costs(study: Study, settings: ReportSettings, progress: Progress) -> dict:
    """Count and time the models that a study has results of, and write ``costs.json``.

    What is there, of the same models, is kept.

    Args:
        study: The study.
        settings: How they are measured.
        progress: Where the progress is shown.

    Returns:
        What the file holds: ``environment``, ``failed``, and in ``models`` for each model the
        digest of its config, its ``parameters``, ``multiply_adds``, and the clips per second of
        its ``forward`` pass and ``training step``.
    """
    chosen: dict[str, Run] = {}
    for run in study.runs:
        if run.task != IMAGE and (study.folder(run) / 'result.json').is_file():
            chosen.setdefault(run.model, run)
    digests = {model: study.digest(run) for model, run in chosen.items()}
    file = study.out / 'costs.json'
    if file.is_file():
        costs = json.loads(file.read_text())
        if {name: costs['models'][name]['digest'] for name in costs['models']} == digests:
            return costs
    for run in chosen.values():
        study.write(run)  # a folder may hold its result alone
    configs = {model: str(study.folder(run) / 'config.py') for model, run in chosen.items()}
    report = make_report(configs, settings, progress)
    costs = dict(
        environment=report['environment'],
        failed=report['failed'],
        models={
            entry['label']: dict(
                digest=digests[entry['label']],
                parameters=entry['parameters'],
                multiply_adds=total(entry['multiply_adds']),
                **{
                    name: entry[name]['clips_per_second']
                    for name in ('forward', 'training step')
                    if name in entry
                },
            )
            for entry in report['models']
        },
    )
    write_atomically(file, json.dumps(costs, indent=1, allow_nan=False) + '\n')
    return costs
