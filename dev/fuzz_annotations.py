"""Read annotation lists of random bytes, and write how many were tried and what went wrong.

A list must be read, with paths below its root and labels in their range, or be refused by an
AnnotationError that names it. Anything else is a fault.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

PIECES = [
    *(b'a', b'video.mp4', b'..', b'.', b'/', b'\\', b'C:', b'~', b'//', b'file://'),
    *(b' ', b'  ', b',', b'\t', b'\n', b'\r\n', b'\r', b'\n\n', b'\0', b'\x1b[2J', b'\x7f'),
    *(b'0', b'1', b'399', b'-1', b'1.5', b'1e3', b'0x1', b'1_0', b'9' * 30, b'nan', b'one'),
    *(
        b'\xef\xbb\xbf',
        b'\xff\xfe',
        b'\xe9',
        b'\xed\xa0\x80',
        '٢é中\u2028\u202e'.encode(),
        b'a' * 70000,
    ),
]
GOOD = b'class 1/video.mp4,0\nclass 2/video.mp4,1\n'


def make(rng: random.Random) -> bytes:
    """Make a list: pieces of lists, a good one with a few bytes changed, or plain noise."""
    kind = rng.randrange(3)
    if kind == 0:
        weights = [10] * (len(PIECES) - 1) + [0.05]
        return b''.join(rng.choices(PIECES, weights, k=rng.randrange(40)))
    if kind == 1:
        content = bytearray(GOOD * rng.randrange(1, 4))
        for _ in range(rng.randrange(4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    return rng.randbytes(rng.randrange(200))


def main(argv: list[str] | None = None) -> int:
    """Try the lists; return 1 if one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--inputs', type=int, default=100_000, help='lists to try (100000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the lists (0)')
    parser.add_argument('--out', type=Path, help='JSON file to write: inputs, faults, seconds')
    args = parser.parse_args(argv)
    from mmengine.logging import MMLogger

    from mmsifa.fileio.atomic_write import write_atomically

    MMLogger.get_instance('fuzz', log_level='ERROR')  # repeated samples are no news here
    rng = random.Random(args.seed)
    start = time.monotonic()
    faults = []
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in track(range(args.inputs), 'Reading lists'):
            path = Path(folder, 'list.txt')
            path.write_bytes(content := make(rng))
            options = dict(
                columns=rng.choice([('filename',)] * 3 + [('frame_dir', 'offset', 'total_frames')]),
                root=rng.choice([None, '', 'videos', '/videos']),
                delimiter=rng.choice([' ', ',', ',', ',', '\t', None]),
                multi_class=rng.random() < 0.3,
                num_classes=rng.choice([None, 2]),
                labels_required=rng.random() < 0.7,
            )
            fault = try_to_read(path, options)
            refused += fault == 'refused'
            if fault not in (None, 'refused'):
                faults.append(dict(content=repr(content), options=repr(options), fault=fault))
    result = dict(
        name='annotations',
        inputs=args.inputs,
        refused=refused,
        faults=len(faults),
        seconds=round(time.monotonic() - start, 1),
        first_faults=faults[:10],
    )
    text = json.dumps(result, indent=2, allow_nan=False)
    print(text)
    if args.out:
        write_atomically(args.out, text + '\n')
    return 1 if faults else 0


def try_to_read(path: Path, options: dict) -> str | None:
    """Return None for a list that was read, 'refused', or what went wrong."""
    from mmsifa.datasets import AnnotationError, read_annotations

    try:
        samples, _ = read_annotations(path, **options)
    except AnnotationError as error:
        lines = str(error).splitlines()
        named = lines[0].startswith(str(path)) and all(line.isprintable() for line in lines)
        return 'refused' if named else f'message {lines}'
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    root = options['root']
    for sample in samples:
        name = sample[options['columns'][0]]
        if root and (not name.startswith(f'{root}/') or '..' in name.replace('\\', '/').split('/')):
            return f'{name!r} left the root'
        labels = sample['label'] if options['multi_class'] else [sample['label']]
        lowest = 0 if options['multi_class'] or options['labels_required'] else -1
        if not all(lowest <= label < (options['num_classes'] or 10**9) for label in labels):
            return f'labels {labels}'
    return None


if __name__ == '__main__':
    sys.exit(main())
