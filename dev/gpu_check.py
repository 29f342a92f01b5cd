"""Show on one GPU that the op is right and how fast it is; see dev/gpu_check.sh.

Each part runs in processes of its own until its limit, and what crashes one is recorded before
another goes on with the rest. OUT/PART.jsonl has a line for each thing that was planned, started,
passed, failed, skipped or measured, written at once.
"""

import argparse
import contextlib
import importlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dev import benchmark_op
from dev.gpu_parts import PARTS, ROOT, SIDE_BY_SIDE
from dev.gpu_report import Journal, counts, described, failures, report, summary

SHELL = 'bash dev/gpu_check.sh'
BROKEN = 3  # exit status of a process that cannot use the GPU any more


# A process of a part


def run_checks(args: argparse.Namespace, journal: Journal) -> None:
    """Run those checks of this process that have no outcome yet."""
    part = PARTS[args.child]
    assert part.checks is not None
    index, count = map(int, args.shard.split('/'))
    checks = {name: c for name, c in part.checks(args).items() if args.only in name}
    finished = journal.outcomes()
    if not args.prepare:
        journal.write(planned=list(checks))
    for name in list(checks)[index::count]:
        if args.prepare:
            with contextlib.suppress(Exception, SystemExit):
                for _ in checks[name]():
                    pass
            continue
        if finished.get(name, {}).get('outcome', 'planned') != 'planned':
            continue
        journal.write(check=name, outcome='started', shard=args.shard)
        start = time.monotonic()
        error = None
        try:
            for result in checks[name]():
                journal.write(check=name, result=result)
            _synchronize(args)
        except (Exception, SystemExit) as exception:
            error = f'{type(exception).__name__}: {exception}'
        _finish(args, journal, name, time.monotonic() - start, error)


def _finish(
    args: argparse.Namespace, journal: Journal, name: str, seconds: float, error: str | None
) -> None:
    """Write a check's outcome; end the process if the GPU refuses all further work."""
    record = {'check': name, 'outcome': 'passed', 'seconds': round(seconds, 2)}
    if error is not None:
        record |= failure(args, args.child, name, error)
    journal.write(**record)
    if error is not None:
        try:
            _synchronize(args)
        except Exception:
            os._exit(BROKEN)


def _synchronize(args: argparse.Namespace) -> None:
    """Wait for the GPU, so that what failed there fails here."""
    if args.device == 'cuda':
        torch.cuda.synchronize()


def failure(args: argparse.Namespace, part: str, check: str | None, reason: str) -> dict:
    """Describe a failed check, or part, and give the line that repeats it."""
    if check and PARTS[part].checks is None:
        line = f'{Path(sys.executable).name} -m pytest {shlex.quote(check)}'
    else:
        line = f'{SHELL} {"--dry-run " if args.dry_run else ""}--part {part}'
        line += f' --only {shlex.quote(check)}' if check else ''
    return {'outcome': 'failed', 'reason': reason[-4000:], 'repeat': line}


class Recorder:
    """A pytest plugin that chooses the tests of this process and writes what becomes of each."""

    def __init__(self, args: argparse.Namespace, journal: Journal) -> None:
        self.args = args
        self.journal = journal
        self.reports: list[Any] = []

    def pytest_collection_modifyitems(self, session: Any, config: Any, items: list) -> None:
        """Keep the tests of the Triton kernels on the device, each process its share."""
        seen: dict[str, int] = {}
        chosen = []
        for item in filter(self.is_of_the_device, items):
            name = item.nodeid.partition('[')[0]
            seen[name] = seen.get(name, 0) + 1
            if self.args.only in item.nodeid and (not self.args.dry_run or seen[name] == 1):
                chosen.append(item)
        self.journal.write(planned=[item.nodeid for item in chosen])
        index, count = map(int, self.args.shard.split('/'))
        outcomes = self.journal.outcomes()
        items[:] = [i for i in chosen[index::count] if outcomes[i.nodeid]['outcome'] == 'planned']

    def is_of_the_device(self, item: Any) -> bool:
        """Tell whether a test needs a GPU, or runs the Triton kernels on the device."""
        parameters = item.callspec.params if hasattr(item, 'callspec') else {}
        here = parameters.get('device') == self.args.device
        return here & (parameters.get('backend', 'triton') == 'triton') or any(
            item.iter_markers('gpu')
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test starts, so that a crash has a name."""
        self.journal.write(check=nodeid, outcome='started', shard=self.args.shard)
        self.reports = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take what set-up, test and tear-down say."""
        self.reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write what became of a test."""
        seconds = sum(report.duration for report in self.reports)
        failed = [report for report in self.reports if report.failed]
        skipped = [report for report in self.reports if report.skipped]
        if skipped and not failed:
            reason = skipped[0].longrepr[2] if isinstance(skipped[0].longrepr, tuple) else ''
            self.journal.write(check=nodeid, outcome='skipped', reason=reason)
            return
        error = failed[0].longreprtext if failed else None
        if error is None:
            try:
                _synchronize(self.args)
            except Exception as exception:
                error = f'after the test: {exception}'
        _finish(self.args, self.journal, nodeid, seconds, error)


def run_tests(args: argparse.Namespace, journal: Journal) -> None:
    """Run the tests of the op that this process has to run."""
    import pytest

    options = ['-q', '-p', 'no:cacheprovider', '-W', 'ignore', 'tests/ops']
    code = pytest.main(options, plugins=[Recorder(args, journal)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, 5):  # 5: none is left
        sys.exit(int(code) + 10)


def child(args: argparse.Namespace) -> None:
    """Do a process's share of a part."""
    if args.dry_run:
        importlib.import_module('conftest')  # it quickens Triton's interpreter
        benchmark_op.SHAPES = {'SIFA-Net, 16 frames, 2 x 2': (2, 16, 2)}
        benchmark_op.backend_is_at_home = lambda backend, query: backend == 'triton'
        benchmark_op.cpu_milliseconds = _one_call
    journal = Journal(args.out / f'{args.child}.jsonl')
    (run_checks if PARTS[args.child].checks else run_tests)(args, journal)


def _one_call(run: Callable[[], object], number: int) -> float:
    """Return the milliseconds of a call, however many are asked for."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


# All parts


def run_all(args: argparse.Namespace) -> bool:
    """Run the parts one after the other and return whether nothing failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    names = args.part or list(PARTS)
    for name in names:
        (args.out / f'{name}.jsonl').unlink(missing_ok=True)
    for name in names:
        start = time.monotonic()
        run_part(name, args, min(end, start + PARTS[name].seconds * (4 if args.dry_run else 1)))
        journal = Journal(args.out / f'{name}.jsonl')
        print(f'{name}: {counts(journal)}, {time.monotonic() - start:.0f} s', flush=True)
        for record in failures(name, journal):
            print(described(record), flush=True)
    text, passed = summary(args.out, names)
    print(f'\n{text}')
    return passed


def run_part(name: str, args: argparse.Namespace, end: float) -> None:
    """Run a part's processes until all its checks have an outcome or its time is over."""
    part = PARTS[name]
    journal = Journal(args.out / f'{name}.jsonl')
    reason = part.missing()
    if reason is None and time.monotonic() > end - 1:
        reason = 'no time was left'
    if reason:
        journal.write(check=name, outcome='skipped', reason=reason)
        return
    if part.prepares and not args.dry_run and not args.only:
        half = (time.monotonic() + end) / 2
        run_processes(args, name, [f'{i}/{SIDE_BY_SIDE}' for i in range(SIDE_BY_SIDE)], half, True)
    count = 1 if args.dry_run or args.only else part.processes
    shards = [f'{i}/{count}' for i in range(count)]
    while shards:
        again = []
        for shard, code, said in run_processes(args, name, shards, end):
            if code == 0:
                continue
            over = time.monotonic() >= end
            ended = f'its process ended with {code}'
            reason = 'the time of its part was over while it ran' if over else f'{ended}: {said}'
            running = [
                record['check']
                for record in journal.outcomes().values()
                if record['outcome'] == 'started' and record['shard'] == shard
            ]
            for check in running:
                journal.write(check=check, **failure(args, name, check, reason))
            if not running and code != BROKEN and not over:
                journal.write(check=name, **failure(args, name, None, reason))
            elif not over:
                again.append(shard)
        shards = again


def run_processes(
    args: argparse.Namespace, name: str, shards: list[str], end: float, prepare: bool = False
) -> list[tuple[str, int | None, str]]:
    """Run a process for each shard; return its exit status, and the end of what it said."""
    env = os.environ | {'PYTHONWARNINGS': 'ignore', 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'}
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    env.pop('TRITON_INTERPRET', None)
    if args.device == 'cpu':
        env |= {'TRITON_INTERPRET': '1', 'CUDA_VISIBLE_DEVICES': ''}
    if len(shards) > 1:
        env |= {'OMP_NUM_THREADS': '1', 'TORCHINDUCTOR_COMPILE_THREADS': '1'}
    command = [sys.executable, '-m', 'dev.gpu_check', str(args.out), '--child', name]
    command += ['--only', args.only, *(['--dry-run'] if args.dry_run else [])]
    command += ['--prepare'] if prepare else []
    with contextlib.ExitStack() as stack:
        running = []
        for shard in shards:
            said = stack.enter_context(tempfile.TemporaryFile('w+', errors='replace'))
            process = subprocess.Popen(
                [*command, '--shard', shard],
                cwd=ROOT,
                env=env,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_kill, process)
            running.append((shard, process, said))
        while time.monotonic() < end and any(p.poll() is None for _, p, _ in running):
            time.sleep(0.05)
        results = []
        for shard, process, said in running:
            code = process.poll()
            said.seek(0)
            results.append((shard, code, said.read()[-2000:]))
        return results


def _kill(process: subprocess.Popen) -> None:
    """End a process and all that it started, which have a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=SHELL, description=__doc__)
    parser.add_argument('out', type=Path, nargs='?', help='folder (work_dirs/gpu_check)')
    parser.add_argument('--dry-run', action='store_true', help='small and on the CPU')
    parser.add_argument('--part', action='append', choices=PARTS, help='only this, and others')
    parser.add_argument('--only', default='', help='only checks with this in their names')
    parser.add_argument('--minutes', type=float, help='for all (8; 30 for a dry run)')
    parser.add_argument('--report', action='store_true', help='write tables of what OUT has')
    parser.add_argument('--to', type=Path, default=ROOT / 'docs/benchmarks', help='their folder')
    parser.add_argument('--name', help='NAME of gpu_NAME.md (the name of the GPU)')
    parser.add_argument('--child', choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument('--shard', default='0/1', help=argparse.SUPPRESS)
    parser.add_argument('--prepare', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.out is None:
        args.out = Path(tempfile.mkdtemp() if args.only else 'work_dirs/gpu_check')
    args.minutes = args.minutes or (30 if args.dry_run else 8)
    args.device = 'cpu' if args.dry_run else 'cuda'
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the parts, or write the report."""
    args = parse_args(argv)
    if args.report:
        return report(args.out, args.to, args.name)
    if args.child:
        return child(args)
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit(f'PyTorch {torch.__version__} finds no GPU; {SHELL} --dry-run needs none')
    if find_spec('triton') is None:
        sys.exit("Triton is not installed: 'pip install triton'")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes of the part
    sys.exit(0 if run_all(args) else 1)


if __name__ == '__main__':
    main()
