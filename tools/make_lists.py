"""Make annotation lists of a folder of videos, FOLDER/CLASS/VIDEO, and split it in two."""

import argparse
import sys
from pathlib import Path

from mmsifa.commands.options import delimiter, exit_code, print_any_text
from mmsifa.datasets import split_class_folders, write_lists


def main(argv: list[str] | None = None) -> None:
    """List the folder that the command line names."""
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__)
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
    args = parser.parse_args(argv)
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


if __name__ == '__main__':
    main()
    sys.exit(exit_code())
