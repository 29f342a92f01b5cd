"""What came of dev/gpu_check.py: its records, their summary, and the tables of a report."""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dev.benchmark_op import by_pass
from dev.gpu_parts import PARTS, TSM
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import table

# What a channel of a tap costs, read off the Triton kernels: multiplications and additions, where a
# fused one counts once, and conversions of inputs to float32, where they are narrower.
OPERATIONS = {'forward': (6, 4), 'backward': (25, 4)}


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
        for kind, subjects in by_pass([{}, *rows]).items():
            contestants = list(dict.fromkeys(name for times in subjects.values() for name in times))
            cells = [
                [subject, *(f'{times[c]:.3g}' if c in times else '' for c in contestants)]
                for subject, times in subjects.items()
            ]
            text += '\n' + table([kind, *contestants], cells)
        text += '\n' + roofline_table(rows, machine)
    text += tile_tables(Journal(out / 'tiles.jsonl').results())
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
            shares = [b[0] / r['ms'] for r in chosen if (b := limits(r, machine))]
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


def limits(result: dict, machine: dict) -> tuple[float, float] | None:
    """Return the fewest milliseconds that traffic and arithmetic of a result's pass take.

    Each number of the inputs is read once, also that of a frame that is value and next query, and
    each of the outputs written once, at a copy's rate; the arithmetic is that of ``OPERATIONS``, at
    one a cycle and lane.
    """
    if result['contestant'] != 'triton' or result['pass'] not in OPERATIONS:
        return None
    if 'bytes_per_second' not in machine:
        return None
    t, c, size = result['shape']
    bytes_each = 4 if result['dtype'] == 'float32' else 2
    pixels, pairs = result['clips'] * size * size, t - 1
    # Forward: frames, output, offsets. Backward: frames, three gradients as large, offsets twice.
    frames, offsets = (
        (t + pairs, pairs) if result['pass'] == 'forward' else (t + 3 * pairs, 2 * pairs)
    )
    moved = pixels * (frames * c * bytes_each + offsets * 18 * 4)
    arithmetic, conversions = OPERATIONS[result['pass']]
    operations = 9 * pixels * pairs * c * (arithmetic + (conversions if bytes_each < 4 else 0))
    memory = 1e3 * moved / machine['bytes_per_second']
    return memory, 1e3 * operations / machine.get('operations_per_second', math.inf)


def roofline_table(results: list[dict], machine: dict) -> str:
    """Compare the op's passes with what bounds them."""
    rows = []
    for result in results:
        bounds = limits(result, machine)
        if bounds is None:
            continue
        memory, arithmetic = bounds
        bound = 'memory' if memory >= arithmetic else 'arithmetic'
        share, of_copy = max(bounds) / result['ms'], memory / result['ms']
        numbers = [f'{memory:.3g}', f'{arithmetic:.3g}', f'{result["ms"]:.3g}']
        percent = [f'{100 * share:.0f} %', f'{100 * of_copy:.0f} %']
        rows.append([f'{result["subject"]}, {result["pass"]}', bound, *numbers, *percent])
    head = ['', 'bound by', 'traffic alone, ms', 'arithmetic alone, ms', 'measured, ms']
    return table([*head, 'bound / measured', "of a copy's rate"], rows, 2) if rows else ''


def tile_tables(results: list[dict]) -> str:
    """Show the fastest tile of each shape, and of each entry that the code's table could have."""
    if not results:
        return ''
    groups: dict[tuple, dict[tuple, float]] = {}
    for r in results:
        if r['ms'] is None:
            continue
        key = (r['pass'], r['dtype'], r['channels'], r['subject'])
        groups.setdefault(key, {})[tuple(r['tile'])] = r['ms']
    rows = []
    shared: dict[tuple, list[dict[tuple, float]]] = {}
    for (kernel, dtype, channels, subject), times in groups.items():
        rule, best = next(iter(times)), min(times, key=lambda tile: times[tile])
        cells = [f'{times[rule]:.4g}', f'{times[best]:.4g}', f'{times[rule] / times[best]:.2f}']
        rows.append([f'{subject}, {kernel}, {dtype}', str(rule), str(best), *cells])
        shared.setdefault((kernel, channels, dtype), []).append(
            {tile: ms / times[best] for tile, ms in times.items()}
        )
    text = '\n## Tiles\n\nPositions, rows that they spread over, warps.\n\n'
    head = ['', "the rule's", 'fastest', "the rule's, ms", 'fastest, ms', 'ratio']
    text += table(head, rows, 3)
    text += '\nThe best for all shapes of an entry of `TILES`:\n\n```python\n'
    for (kernel, channels, dtype), slowness in shared.items():
        common = [tile for tile in slowness[0] if all(tile in times for times in slowness)]
        best = min(common, key=lambda tile: sum(times[tile] for times in slowness))
        entry = (kernel, channels, 4 if dtype == 'float32' else 2)
        text += f'{entry!r}: Tile{best!r},\n'
    return text + '```\n'
