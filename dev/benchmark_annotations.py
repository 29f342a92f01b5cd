"""Measure how long long annotation lists take to be read or refused, and in how much memory.

Each case runs in a process of its own, whose peak of resident memory is the figure; the one before
the list is read is the package alone. Writes a JSON line per case.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import track

# What line i holds, from 0.
CASES: dict[str, Callable[[int], str]] = {
    'good': lambda i: f'class_{i % 400}/video_{i:08}_000010_000020.mp4 {i % 400}',
    'every label is no number': lambda i: f'class_{i % 400}/video_{i:08}.mp4 {i % 400}.0',
}


def main(argv: list[str] | None = None) -> None:
    """Measure every case, or the one that a child process is told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--lines', type=int, default=10_000_000, help='lines of a list (10 million)'
    )
    parser.add_argument('--out', type=Path, help='JSON lines file to write')
    parser.add_argument('--read', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.read:
        print(json.dumps(read(args.read)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'list.txt')
        for name, line in track(CASES.items(), 'Reading lists'):
            with path.open('w') as file:
                file.writelines(f'{line(i)}\n' for i in range(args.lines))
            command = [sys.executable, __file__, '--read', str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            results.append(dict(case=name, lines=args.lines, **measured))
    host = dict(machine=platform.machine(), cores=os.cpu_count(), python=platform.python_version())
    text = ''.join(f'{json.dumps(result | host, allow_nan=False)}\n' for result in results)
    print(text, end='')
    if args.out:
        from mmsifa.fileio.atomic_write import write_atomically

        write_atomically(args.out, text)


def read(path: Path) -> dict:
    """Read a list as a data set does; return how it ended, CPU seconds, peaks of memory in MiB."""
    from mmsifa.datasets import AnnotationError, read_annotations

    before = peak_memory()
    start = time.process_time()
    try:
        samples, _ = read_annotations(path, root='data/videos')
        end = f'{len(samples)} samples'
    except AnnotationError as error:
        end = str(error).splitlines()[0].partition(' has ')[2].rstrip(':')
    seconds = time.process_time() - start
    return dict(
        end=end,
        cpu_seconds=round(seconds, 1),
        peak_memory_before_mib=before,
        peak_memory_mib=peak_memory(),
    )


def peak_memory() -> int:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == '__main__':
    main()
