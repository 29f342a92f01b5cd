"""Report what recognizers cost.

Counts parameters and multiply-adds by stage and part, measures memory and speed.
Takes configs of any MMAction2 recognizer of RGB frames. Writes report.json, report.md and
report.png into a folder. What does not build or run is named with the reason, and the exit status
is 1.

Example:
    mmsifa report sifa_r50_k400 mine=config.py --rounds 0
"""

import argparse
import json
import sys
from pathlib import Path

from mmsifa.commands.options import progress_bar, torch_device
from mmsifa.fileio.atomic_write import check_writable, write_atomically
from mmsifa.fileio.text_files import escape_path

START = '<!-- report: written by mmsifa report -->'
END = '<!-- report: end -->'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='CONFIG',
        help='a file, a name such as sifa_r50_k400, or mmaction::recognition/...; LABEL=CONFIG '
        'gives it a label. None: draw the report anew that --out has',
    )
    parser.add_argument(
        '--out', type=Path, default='work_dirs/model_report', help='folder (%(default)s)'
    )
    parser.add_argument('--page', type=Path, help='Markdown page to put the tables into')
    parser.add_argument(
        '--device', type=torch_device, default='cpu', help='cpu or cuda (%(default)s)'
    )
    parser.add_argument(
        '--dtype', default='float32', choices=('float32', 'bfloat16'), help='(%(default)s)'
    )
    parser.add_argument('--batch-size', type=positive, default=1, help='clips (%(default)s)')
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='rounds in which all are timed, the median counts; 0 only counts (%(default)s)',
    )
    parser.add_argument(
        '--side', type=positive, help="height and width of the frames (the configs')"
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Measure and write."""
    from mmsifa.apis.analysis import chart, markdown
    from mmsifa.apis.analysis.report_pages import around_markers

    if args.rounds < 0:
        parser.error(f'--rounds must be 0 or more, got {args.rounds}')
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'--out must be a folder, and {args.out} is a file')
    stored = args.out / 'report.json'
    outputs = [stored, args.out / 'report.md', args.out / 'report.png', args.page]
    try:
        for path in filter(None, outputs):
            check_writable(path)  # before all is measured
        configs = dict(map(label_and_config, args.configs))
        page = args.page and around_markers(
            args.page.read_text('utf-8'), str(args.page), START, END
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if len(configs) < len(args.configs):
        parser.error('each config needs a label of its own: LABEL=CONFIG')

    if configs:
        report = measure(configs, args)
        write_atomically(stored, json.dumps(report, indent=1, allow_nan=False) + '\n')
    elif stored.is_file():
        try:
            report = json.loads(stored.read_text())
            tables = markdown(report)
        except (LookupError, OSError, TypeError, ValueError) as error:
            parser.error(f'{stored} is no report of this tool ({type(error).__name__}: {error})')
    else:
        parser.error(f'give configs: there is no {stored} to draw anew')

    tables = markdown(report)
    write_atomically(args.out / 'report.md', f'# Model report\n\n{tables}')
    if report['models']:
        write_atomically(args.out / 'report.png', chart(report))
    if page:
        write_atomically(args.page, f'{page[0]}{START}\n\n{tables}\n{END}{page[1]}')
    print(f'{tables}\nThe report is in {args.out}.')
    if report['failed']:
        names = ', '.join(f'{f["label"]} ({f["pass"]})' for f in report['failed'])
        sys.exit(f'not everything was measured: {names}')
    return 0


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a number of at least 1, got {text}')
    return int(text)


def label_and_config(text: str) -> tuple[str, str]:
    """Split LABEL=CONFIG; the label of a config alone is its file's name."""
    label, equals, config = text.partition('=')
    if equals and label and not Path(text).is_file():
        return escape_path(label), config
    return escape_path(Path(text.rpartition('::')[2]).stem), text


def measure(configs: dict[str, str], args: argparse.Namespace) -> dict:
    """Make the report and show how far it is."""
    from mmsifa.apis.analysis import ReportSettings, make_report

    settings = ReportSettings(
        device=str(args.device),
        dtype=args.dtype,
        batch_size=args.batch_size,
        rounds=args.rounds,
        side=args.side,
    )
    with progress_bar() as progress:
        return make_report(configs, settings, progress)
