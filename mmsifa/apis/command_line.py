"""Arguments that the command lines of trained recognizers share, with errors in words."""

import argparse
import io
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmsifa.apis.recognizer import default_device
from mmsifa.datasets.annotations import check_delimiter


class ConfigOptions(DictAction):
    """MMEngine's ``KEY=VALUE`` pairs of ``--cfg-options``, with an error in words."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Take the pairs."""
        for pair in values:
            key, equals, _ = pair.partition('=')
            if not (equals and all(key.split('.'))):
                parser.error(f'{option_string}: expected KEY=VALUE, got {pair}')
            try:
                super().__call__(parser, namespace, [pair], option_string)
            except (AssertionError, ValueError) as error:
                parser.error(f'{option_string}: {pair} has no value that can be read ({error})')


def print_any_text() -> None:
    """Let no character stop what is printed: those that the terminal lacks become escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')


def delimiter(text: str) -> str:
    r"""Read what separates a list's columns, with ``\t`` for a tab.

    Args:
        text: What the command line says.

    Returns:
        The delimiter.

    Raises:
        argparse.ArgumentTypeError: If it can separate nothing.

    Example:
        >>> delimiter(r'\t')
        '\t'
    """
    text = text.replace(r'\t', '\t')
    try:
        check_delimiter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def progress_bar(speed_estimate_period: float = 30) -> Progress:
    """Return a progress bar on stderr, with the time that went by and that is left.

    Args:
        speed_estimate_period: Over how many seconds the speed is averaged. Defaults to 30.
    """
    return Progress(
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=speed_estimate_period,
    )


def torch_device(name: str) -> torch.device:
    """Return the device of a name, once it was seen to work.

    Args:
        name: Such as ``cpu`` or ``cuda:0``.

    Returns:
        The device.

    Raises:
        argparse.ArgumentTypeError: If PyTorch cannot use it here.

    Example:
        >>> torch_device('cpu')
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition('\n')[0]
        raise argparse.ArgumentTypeError(f'PyTorch cannot use {name} here: {reason}') from error
    return device


def add_recognizer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--checkpoint``, ``--labels``, ``--device`` and ``--cfg-options``.

    Args:
        parser: The parser of a tool that scores videos.
    """
    add = parser.add_argument
    add('--config', required=True, help='a file, sifa_r50_k400, mmaction::recognition/...')
    add('--checkpoint', required=True, help='its weights, a file or URL')
    add('--labels', type=Path, help='class names, one a line; default: those of the data set')
    add(
        '--device',
        type=torch_device,
        default=default_device(),
        help='torch device (%(default)s)',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='what to change in the config, KEY=VALUE',
    )
