"""What the models of a study cost, measured side by side."""

import json

from rich.progress import Progress

from mmsifa.apis.analysis import ReportSettings, make_report, total
from mmsifa.fileio.atomic_write import write_atomically
from study.plan import IMAGE, Run, Study


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
