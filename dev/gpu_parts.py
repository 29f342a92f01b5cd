"""What dev/gpu_check.py shows on a GPU: its parts and their checks."""

import argparse
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dev import benchmark_op
from mmsifa import __version__, require_mmaction2
from mmsifa.ops import BACKENDS
from mmsifa.ops import triton as triton_op
from mmsifa.ops.arguments import AttentionOptions

ROOT = Path(__file__).resolve().parent.parent
SIDE_BY_SIDE = min(12, os.cpu_count() or 1)
TSM = 'mmaction::recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb'

Check = Callable[[], Iterable[dict]]


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
    """Time the op beside what does the same and what bounds it, its backward pass, the block."""
    checks: dict[str, Check] = {}
    for dtype in ('bfloat16',) if args.dry_run else ('bfloat16', 'float32'):
        for name in benchmark_op.SHAPES:

            def compare(name=name, dtype=dtype):
                of_r50 = dtype == 'bfloat16' and name.startswith('SIFA-Net, 16')
                compiled = of_r50 or (dtype == 'bfloat16' and name.endswith(('28 x 28', '56 x 56')))
                settings = _benchmark(args, dtype, name, compiled and not args.dry_run)
                contests = [benchmark_op.time_op, benchmark_op.time_backward]
                for contest in contests + [benchmark_op.time_block] * of_r50:
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
