"""List the videos of a folder by class, split in two.

Makes annotation lists of FOLDER/CLASS/VIDEO, one to train and one to validate.

Example:
    mmsifa make-lists videos/ --val-share 0.2 --out lists/
"""

import argparse
from pathlib import Path

from mmsifa.commands.options import delimiter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('folder', type=Path, help='folder that holds one folder for each class')
    parser.add_argument(
        '--val-share', type=float, default=0.2, help='share of each class to validate with (0.2)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (0)')
    parser.add_argument('--out', type=Path, help='folder to write into (FOLDER)')
    parser.add_argument(
        '--delimiter',
        type=delimiter,
        default=' ',
        help=r'between path and label, \t for a tab (a space)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace lists that are there')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """List the folder that the arguments name."""
    from mmsifa.datasets import split_class_folders, write_lists

    out = args.out or args.folder
    if out.exists() and not out.is_dir():
        parser.error(f'--out must be a folder, and {out} is a file')
    try:
        split = split_class_folders(args.folder, args.val_share, args.seed)
        write_lists(split, out, args.delimiter, args.overwrite)
    except FileExistsError as error:
        parser.error(f'{error}; replace it with --overwrite or name another folder by --out')
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for label, name in enumerate(split.classes):
        counts = [sum(of == label for _, of in part) for part in (split.train, split.val)]
        print(f'{label:3} {name}: {counts[0]} to train, {counts[1]} to validate')
    print(
        f'{len(split.classes)} classes, {len(split.train)} videos to train, '
        f'{len(split.val)} to validate; lists and label_map.txt are in {out}'
    )
    return 0
