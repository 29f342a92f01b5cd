"""The command line: ``mmsifa COMMAND``, or ``python -m mmsifa COMMAND``."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmsifa.commands import (
    benchmark_data,
    check_videos,
    convert,
    export,
    inspect,
    make_lists,
    make_motion_dataset,
    plot,
    predict,
    prepare_videos,
    report,
    run_tool,
)
from mmsifa.commands.options import exit_code, print_any_text
from mmsifa.installation import install_commands, require_mmaction2

COMMANDS = {
    'predict': predict,
    'inspect': inspect,
    'export': export,
    'report': report,
    'convert': convert,
    'check-videos': check_videos,
    'make-lists': make_lists,
    'prepare-videos': prepare_videos,
    'benchmark-data': benchmark_data,
    'make-motion-dataset': make_motion_dataset,
    'plot': plot,
    'run': run_tool,
}


class _Help(argparse.HelpFormatter):
    """Fills paragraphs and leaves indented ones, which are commands, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.split('\n\n')
        return '\n\n'.join(p if p[0] == ' ' else fill(p, width, indent) for p in paragraphs)


class _PrintInstallCommands(argparse.Action):
    """Print the commands that install what is missing, and end."""

    def __call__(self, parser, *_):
        print(*install_commands(), sep='\n')
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, each described by its module's docstring."""
    parser = argparse.ArgumentParser(
        'mmsifa',
        description='Use and check video recognizers with inter-frame attention. '
        'mmsifa COMMAND --help shows the arguments of a command and an example.',
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=25),
    )
    parser.add_argument(
        '--mmaction2',
        nargs=0,
        action=_PrintInstallCommands,
        help='print what installs MMAction2; | bash runs it',
    )
    try:
        import shtab
    except ImportError:
        files = None
    else:
        files = shtab.FILE
        parser.add_argument(
            '--completion',
            metavar='bash|zsh',
            choices=shtab.SUPPORTED_SHELLS,
            action=shtab.completion_action(),
            help='print a script by which bash, zsh, ... complete words',
        )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name, command in COMMANDS.items():
        description, _, example = (command.__doc__ or '').partition('\n\nExample:\n')
        own = commands.add_parser(
            name,
            help=description.splitlines()[0].rstrip('.'),
            description=description,
            epilog=f'example:\n\n{example.rstrip()}',
            formatter_class=_Help,
        )
        command.add_arguments(own)
        for action in own._actions:  # shtab completes files where it is told to
            if files and action.type in (None, Path) and not action.choices:
                action.complete = files  # type: ignore[attr-defined]
        own.set_defaults(run=command.run, parser=own)
    return parser


def main(argv: Sequence[str] | None = None, load: Callable[[], object] = lambda: None) -> int:
    """Run a command.

    Args:
        argv: Its name and arguments. Defaults to those of the process.
        load: Registers what the package has, once the arguments were read. Defaults to nothing,
            where that was done.

    Returns:
        The exit code.
    """
    args = make_parser().parse_args(argv)
    if args.run is not run_tool.run:  # whose tools print as they do without mmsifa
        print_any_text()
    try:
        load()
        if args.run is not plot.run:
            require_mmaction2('this command')
    except ImportError as error:
        sys.exit(f'{args.parser.prog}: {error}')
    return exit_code(args.run(args, args.parser))


if __name__ == '__main__':
    from mmsifa import register

    sys.exit(main(load=register))
