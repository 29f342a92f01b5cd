"""Show on one GPU that the op is right and how fast it is; see dev/gpu_check.sh.

Each part runs in processes of its own until its limit, and what crashes one is recorded before
another goes on with the rest. OUT/PART.jsonl has a line for each thing that was planned, started,
passed, failed, skipped or measured, written at once.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dev import benchmark_op
from mmsifa import __version__, require_mmaction2
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import table
from mmsifa.ops import BACKENDS
from mmsifa.ops import triton as triton_op
from mmsifa.ops.arguments import AttentionOptions

ROOT = Path(__file__).resolve().parent.parent
SHELL = 'bash dev/gpu_check.sh'
BROKEN = 3  # exit status of a process that cannot use the GPU any more
SIDE_BY_SIDE = min(12, os.cpu_count() or 1)
TSM = 'mmaction::recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb'

Check = Callable[[], Iterable[dict]]


# Records


class Journal:
    """A file of records, one a line, that several processes may write to and be killed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **record: Any) -> None:
        """Add a record, in one write."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, (json.dumps(record) + '\n').encode())
        finally:
            os.close(file)

    def read(self) -> list[dict]:
        """Return the records; a line that was cut off is none."""
        records = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def outcomes(self) -> dict[str, dict]:
        """Return the last record of each check that was planned; its outcome may be 'planned'."""
        checks: dict[str, dict] = {}
        for record in self.read():
            for name in record.get('planned', ()):
                checks.setdefault(name, {'check': name, 'outcome': 'planned'})
            if 'outcome' in record:
                checks[record['check']] = record
        return checks

    def results(self) -> list[dict]:
        """Return what was measured."""
        return [record['result'] for record in self.read() if 'result' in record]


# Parts


def machine_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Describe the machine, launch the op once, copy."""

    def describe():
        record: dict[str, Any] = {
            'device': platform.processor() or platform.machine(),
            'python': platform.python_version(),
            'torch': torch.__version__,
            'triton': triton_op._found,
            'mmsifa': __version__,
            'date': date.today().isoformat(),
        }
        if args.device == 'cuda':
            compiler = os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')
            if not compiler:
                raise RuntimeError('Triton finds no C compiler: install gcc or clang, or set CC')
            gpu = torch.cuda.get_device_properties(0)
            # A multiprocessor begins 128 operations on float32 in a cycle, that of an A100 64.
            lanes = 64 if (gpu.major, gpu.minor) == (8, 0) else 128
            record |= {
                'device': gpu.name,
                'capability': f'{gpu.major}.{gpu.minor}',
                'gpus': torch.cuda.device_count(),
                'memory': gpu.total_memory,
                'multiprocessors': gpu.multi_processor_count,
                'l2': gpu.L2_cache_size,
                'clock': (rate := _clock_rate()),
                'operations_per_second': rate * gpu.multi_processor_count * lanes,
            }
        yield record

    def launch():
        inputs = [torch.randn(1, 2, 64, 5, 5, device=args.device) for _ in range(3)]
        offset = torch.randn(1, 2, 18, 5, 5, device=args.device)
        options = AttentionOptions(3, 1, 1, 1 / 64, False)
        results = []
        for backend in ('triton', 'reference'):
            op = BACKENDS[backend]
            out = op.forward(*inputs[:2], offset, options)
            results.append((out, *op.backward(inputs[2], *inputs[:2], offset, options)))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
        return ()

    def copy():
        source = torch.ones(2**20 if args.dry_run else 2**30, dtype=torch.int8, device=args.device)
        target = torch.empty_like(source)
        clock = benchmark_op.clock_of(args.device)
        ms = statistics.median(clock(lambda: target.copy_(source), 5) for _ in range(5))
        yield {'bytes_per_second': 2e3 * source.nbytes / ms}

    return {'describe': describe, 'one launch': launch, 'copy': copy}


def _clock_rate() -> int:
    """Return the highest cycles a second of a multiprocessor."""
    from triton.runtime import driver

    return 1000 * driver.active.utils.get_device_properties(0)['sm_clock_rate']


def speed_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Time the op beside what does the same and what bounds it, and its backward pass alone."""
    checks: dict[str, Check] = {}
    for dtype in ('bfloat16',) if args.dry_run else ('bfloat16', 'float32'):
        for name in benchmark_op.SHAPES:

            def compare(name=name, dtype=dtype):
                compiled = dtype == 'bfloat16' and name.endswith(('28 x 28', '56 x 56'))
                settings = _benchmark(args, dtype, name, compiled and not args.dry_run)
                for contest in (benchmark_op.time_op, benchmark_op.time_backward):
                    for result in benchmark_op.measure(contest, name, settings):
                        shape = benchmark_op.SHAPES[name]
                        yield result | {'dtype': dtype, 'clips': settings.clips, 'shape': shape}

            checks[f'{dtype}, {name}'] = compare
    return checks


def _benchmark(
    args: argparse.Namespace, dtype: str, name: str, compiled: bool = False
) -> argparse.Namespace:
    """Return what benchmark_op's command line would be."""
    clips = 1 if args.dry_run else 8 if name.startswith('SIFA-Net') else 2
    rounds, seconds = (1, 1e-6) if args.dry_run or args.prepare else (3, 0.01)
    options = f'- --device {args.device} --dtype {dtype} --clips {clips} --rounds {rounds}'
    options += f' --seconds {seconds}' + ('' if compiled else ' --no-compile')
    return benchmark_op.parse_args(options.split())


def tile_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Time the op's kernels with other tiles than those that would be chosen."""
    checks: dict[str, Check] = {}
    for dtype in ('float32',) if args.dry_run else ('bfloat16', 'float32'):
        for name in benchmark_op.SHAPES:
            if '32 frames' in name or name.startswith('SIFA-Net, 64'):
                continue  # as those of 16 frames
            for kernel in ('forward', 'backward'):
                checks[f'{dtype}, {kernel}, {name}'] = _bind(time_tiles, args, dtype, kernel, name)
    return checks


def _bind(function: Callable[..., Iterator[dict]], *args: Any) -> Check:
    return lambda: function(*args)


def time_tiles(args: argparse.Namespace, dtype: str, kernel: str, name: str) -> Iterator[dict]:
    """Time a pass with each tile that it could have."""
    settings = _benchmark(args, dtype, name)
    for result in benchmark_op.time_tiles(name, settings, kernel, 2 if args.dry_run else None):
        yield result | {'dtype': dtype}


def sanitizer_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Run small tests of the kernels under compute-sanitizer."""

    def check(tool: str) -> Check:
        def run():
            names = '(in_order or 64_bit or half_inputs_lose) and not cpu-'
            files = ['tests/ops/test_triton.py', 'tests/ops/test_backends.py']
            command = ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']
            command += [sys.executable, '-m', 'pytest', '-q', '-x', *files, '-k', names]
            _run(command, PYTORCH_NO_CUDA_MEMORY_CACHING='1')
            return ()

        return run

    return {tool: check(tool) for tool in ('memcheck', 'racecheck')}


def network_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Time training steps in bfloat16, with the attention and with an identity in its place."""
    networks = {'sifa_r50_k400': 8, TSM: 8, 'sifa_swin_s_k400': 2}
    if args.dry_run:
        networks = {'sifa_tiny_motion': 1}
    return {name: _bind(time_steps, args, name, clips) for name, clips in networks.items()}


def time_steps(args: argparse.Namespace, name: str, clips: int) -> Iterator[dict]:
    """Time a network's training steps and take their memory."""
    dtype = 'float32' if args.dry_run else 'bfloat16'  # which MMEngine refuses on a CPU
    settings = _benchmark(args, dtype, name)
    settings.clips, settings.seconds = clips, 1e-6 if args.dry_run else 0.4
    memory = {}

    def steps(name, settings):
        for kind, contestants in benchmark_op.time_network(name, settings):
            if kind != 'training step':
                continue
            if name == TSM:  # it has no attention
                del contestants['identity']
            if args.device == 'cuda':
                for contestant, run in contestants.items():
                    run()
                    before = torch.cuda.memory_allocated()
                    torch.cuda.reset_peak_memory_stats()
                    run()
                    memory[contestant] = torch.cuda.max_memory_allocated() - before
            yield kind, contestants

    for result in benchmark_op.measure(steps, name, settings):
        contestant = result['contestant']
        rate = clips * 1e3 / result['ms']
        yield result | {'clips_per_second': rate, 'memory': memory.get(contestant)}


def training_checks(args: argparse.Namespace) -> dict[str, Check]:
    """Train the quickstart's network for an epoch, also with loss scaling and NCCL."""

    def epoch(*options: str) -> Check:
        def run():
            with tempfile.TemporaryDirectory() as folder:
                sizes = ['--num-train', '16', '--num-val', '8'] if args.dry_run else []
                data = f'{folder}/motion'
                _run([sys.executable, '-m', 'mmsifa', 'make-motion-dataset', data, *sizes])
                changes = ['--cfg-options', 'train_cfg.max_epochs=1']
                for split in ('train', 'val'):
                    dataset = f'{split}_dataloader.dataset'
                    changes += [
                        f'{dataset}.ann_file={data}/{split}_list_videos.txt',
                        f'{dataset}.data_prefix.video={data}/videos_{split}',
                    ]
                command = [*options, 'tools/train.py', 'configs/sifa_tiny_motion.py']
                if options:
                    command += ['--launcher', 'pytorch', '--amp']
                start = time.perf_counter()
                said = _run([sys.executable, *command, '--work-dir', folder, *changes])
                seconds = time.perf_counter() - start
                accuracy = said.rpartition('acc/top1: ')[2].split()[0]
                yield {'seconds': seconds, 'accuracy': float(accuracy)}

        return run

    launcher = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '1')
    return {'one epoch': epoch(), 'one epoch with loss scaling and one rank': epoch(*launcher)}


def _run(command: list[str], **env: str) -> str:
    """Run a command; what it said is the error if it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    if done.returncode:
        said = f'{shlex.join(command)} ended with {done.returncode}: {done.stdout[-3000:]}'
        causes = [line for line in done.stdout.splitlines() if 'Error: ' in line]
        raise RuntimeError('\nE  '.join([said, *causes[:1]]))
    return done.stdout


def _needs_sanitizer() -> str | None:
    return None if shutil.which('compute-sanitizer') else 'compute-sanitizer is not installed'


def _needs_mmaction2() -> str | None:
    try:
        require_mmaction2('this part')
    except ImportError as error:
        return str(error)
    return None


class Part(NamedTuple):
    """What one process at a time, or several, show.

    Attributes:
        checks: Returns the checks by name; each yields what it measures and raises what fails.
            None: the tests of the op.
        seconds: Its limit.
        processes: How many processes share its checks.
        prepares: Whether several processes first run all checks, so that the compiled kernels are
            on the disk when one of them measures.
        missing: Says what this machine lacks.
    """

    checks: Callable[[argparse.Namespace], dict[str, Check]] | None
    seconds: int
    processes: int = 1
    prepares: bool = False
    missing: Callable[[], str | None] = lambda: None


#: In this order.
PARTS = {
    'machine': Part(machine_checks, 60),
    'op': Part(None, 180, processes=SIDE_BY_SIDE),
    'speed': Part(speed_checks, 120, prepares=True),
    'tiles': Part(tile_checks, 150, prepares=True),
    'sanitizer': Part(sanitizer_checks, 90, missing=_needs_sanitizer),
    'networks': Part(network_checks, 120, missing=_needs_mmaction2),
    'training': Part(training_checks, 150, missing=_needs_mmaction2),
}


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
        benchmark_op.SHAPES = {'SIFA-Net, dry run, 2 x 2': (2, 16, 2)}
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


# Summary and report


def counts(journal: Journal) -> str:
    """Say how many checks came to which outcome."""
    outcomes = [record['outcome'] for record in journal.outcomes().values()]
    words = {'started': 'cut off', 'planned': 'not begun'}
    kinds = ('passed', 'failed', 'skipped', 'started', 'planned')
    return ', '.join(
        f'{outcomes.count(kind)} {words.get(kind, kind)}' for kind in kinds if kind in outcomes
    )


def failures(part: str, journal: Journal) -> list[dict]:
    """Return the records of what failed."""
    records = journal.outcomes().values()
    return [{'part': part} | record for record in records if record['outcome'] == 'failed']


def described(record: dict) -> str:
    """Say what failed, why in a line, and how to repeat it."""
    lines = [line for line in record['reason'].splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('E  ')] or lines
    reason = errors[0].removeprefix('E').strip()[:300] if errors else ''
    return f'- {record["part"]}, {record["check"]}: {reason}\n  `{record["repeat"]}`'


def summary(out: Path, names: Iterable[str] = PARTS) -> tuple[str, bool]:
    """Say what came of all parts, and whether all that began was finished and nothing failed."""
    rows, failed, passed = [], [], True
    skipped: dict[str, str] = {}
    for name in names:
        journal = Journal(out / f'{name}.jsonl')
        outcomes = journal.outcomes().values()
        rows.append([name, counts(journal) or 'not begun'])
        failed += failures(name, journal)
        skipped |= {r['check']: r['reason'] for r in outcomes if r['outcome'] == 'skipped'}
        passed &= {record['outcome'] for record in outcomes} <= {'passed', 'skipped'}
        passed &= bool(outcomes)
    text = table(['part', 'checks'], rows, 2)
    for title, lines in (
        ('Failed, and what repeats it', [described(record) for record in failed]),
        ('Skipped', [f'- {check}: {reason}' for check, reason in skipped.items()]),
    ):
        text += f'\n{title}:\n\n' + '\n'.join(lines) + '\n' if lines else ''
    return text + targets(out), passed


def report(out: Path, to: Path, name: str | None) -> None:
    """Write ``gpu_NAME.json``, all records, and ``gpu_NAME.md``, the tables made of them."""
    parts = {part: Journal(out / f'{part}.jsonl') for part in PARTS}
    machine = machine_of(out)
    if not machine:
        raise SystemExit(f'{out} has no machine.jsonl with a description of the machine')
    name = name or '_'.join(str(machine['device']).lower().split()).replace('/', '_')
    records = {
        part: {'checks': list(journal.outcomes().values()), 'results': journal.results()}
        for part, journal in parts.items()
    }
    write_atomically(to / f'gpu_{name}.json', json.dumps(records, indent=1) + '\n')
    write_atomically(to / f'gpu_{name}.md', page(out, machine))
    print(f'Wrote {to}/gpu_{name}.json and {to}/gpu_{name}.md')


def machine_of(out: Path) -> dict:
    """Return what is known about the machine."""
    machine: dict = {}
    for result in Journal(out / 'machine.jsonl').results():
        machine |= result
    return machine


def page(out: Path, machine: dict) -> str:
    """Write the page of tables."""
    described = ', '.join(f'{key} {value}' for key, value in machine.items() if key != 'device')
    text = f'# The op on {machine["device"]}\n\n{described}.\n\n{summary(out)[0]}'
    speed = Journal(out / 'speed.jsonl').results()
    for dtype in dict.fromkeys(result['dtype'] for result in speed):
        rows = [result for result in speed if result['dtype'] == dtype]
        text += f'\n## {dtype}\n\nMilliseconds on the GPU, with other data in its L2 cache.\n'
        for kind, subjects in benchmark_op.by_pass([{}, *rows]).items():
            contestants = list(dict.fromkeys(name for times in subjects.values() for name in times))
            cells = [
                [subject, *(f'{times[c]:.3g}' if c in times else '' for c in contestants)]
                for subject, times in subjects.items()
            ]
            text += '\n' + table([kind, *contestants], cells)
        text += '\n' + benchmark_op.roofline_table(rows, machine)
    text += benchmark_op.tile_tables(Journal(out / 'tiles.jsonl').results())
    return text + network_table(Journal(out / 'networks.jsonl').results())


def network_table(results: list[dict]) -> str:
    """Show what training steps take."""
    rows = []
    for result in results:
        memory = result['memory']
        rows.append(
            [
                f'{result["subject"].rpartition("/")[2]}, {result["contestant"]}',
                f'{result["ms"]:.1f}',
                f'{result["clips_per_second"]:.1f}',
                f'{memory / 2**30:.2f}' if memory else '',
            ]
        )
    head = ['training step in bfloat16', 'ms', 'clips a second', "memory beyond weights', GiB"]
    return '\n## Networks\n\n' + table(head, rows) if rows else ''


def targets(out: Path) -> str:
    """Compare what was measured with what it should be."""
    machine = machine_of(out)
    speed = Journal(out / 'speed.jsonl').results()
    rows = []
    for kind, least in (('forward', 0.7), ('backward', 0.4)):
        for dtype in ('bfloat16', 'float32'):
            chosen = [r for r in speed if (r['pass'], r['dtype']) == (kind, dtype)]
            shares = [b[0] / r['ms'] for r in chosen if (b := benchmark_op.limits(r, machine))]
            if shares:
                text = f"{kind}, {dtype}: share of a copy's rate, all shapes"
                rows.append([text, f'at least {least}', f'{min(shares):.2f} to {max(shares):.2f}'])
    for dtype in ('bfloat16', 'float32'):
        times = {
            r['contestant']: r['ms']
            for r in speed
            if r['pass'] == 'backward' and r['dtype'] == dtype and _is_large(r, speed)
        }
        if 'triton, in order' in times:
            ratio = times['triton, in order'] / times['triton']
            rows.append(
                [f'backward in order, {dtype}: times atomics', 'at most 20', f'{ratio:.1f}']
            )
    steps: dict[str, dict[str, dict]] = {}
    for result in Journal(out / 'networks.jsonl').results():
        steps.setdefault(result['subject'], {})[result['contestant']] = result
    for subject, by_contestant in steps.items():
        if 'identity' in by_contestant:
            ratio = by_contestant['SIFA']['ms'] / by_contestant['identity']['ms']
            rows.append([f'{subject}, step: times without SIFA', 'at most 1.08', f'{ratio:.3f}'])
    if TSM in steps and 'sifa_r50_k400' in steps:
        rate = steps['sifa_r50_k400']['SIFA']['clips_per_second']
        rate /= steps[TSM]['SIFA']['clips_per_second']
        rows.append(['SIFA-R50, 16 frames: clips a second / TSM-R50, 8', 'over 1', f'{rate:.2f}'])
    return '\n' + table(['measured', 'target', 'is'], rows, 2) if rows else ''


def _is_large(result: dict, results: list[dict]) -> bool:
    """Tell whether a subject is the one that was also timed in order."""
    return any(
        other['subject'] == result['subject'] and other['contestant'] == 'triton, in order'
        for other in results
    )


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
