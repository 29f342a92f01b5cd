"""Arguments that several commands share, with errors in words, and what they print with.

What is imported here at the top must be quick: ``mmsifa --help`` waits for it.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress


class ConfigOptions(argparse.Action):
    """MMEngine's ``KEY=VALUE`` pairs of ``--cfg-options``, with an error in words."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Take the pairs."""
        try:
            from mmengine.config import DictAction
        except ImportError:
            return  # the command says what is missing

        take = DictAction(self.option_strings, self.dest, nargs='+')
        for pair in values:
            key, equals, _ = pair.partition('=')
            if not (equals and all(key.split('.'))):
                parser.error(f'{option_string}: expected KEY=VALUE, got {pair}')
            try:
                take(parser, namespace, [pair], option_string)
            except (AssertionError, ValueError) as error:
                parser.error(f'{option_string}: {pair} has no value that can be read ({error})')


def print_any_text() -> None:
    """Let nothing that is printed stop the work.

    Characters that the terminal lacks become escapes. Where nobody reads any longer, as after
    ``| head -1``, or the disk is full, what is printed gets lost and the work goes on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is getattr(sys, f'__{name}__') and type(stream) is io.TextIOWrapper:
            stream.flush()
            setattr(sys, name, _Console(stream))


class _Console(io.TextIOWrapper):
    """A standard stream that does not fail, in place of one that others may still hold."""

    lost = False

    def __init__(self, stream: io.TextIOWrapper):
        options = stream.encoding, stream.errors, None
        super().__init__(stream.buffer, *options, stream.line_buffering, stream.write_through)
        self.before = stream  # which closes the buffer when it goes
        mmengine_logging = sys.modules.get('mmengine.logging')
        logger = mmengine_logging and mmengine_logging.MMLogger.get_current_instance()
        for handler in logger.handlers if logger else []:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(self)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self is sys.stdout:
            print(f'Nothing more can be printed ({error}); the work goes on', file=sys.stderr)


def exit_code(code: int = 0) -> int:
    """Return a program's exit code: 1 where all went well and what it printed was lost.

    Args:
        code: Its exit code otherwise. Defaults to 0.
    """
    if isinstance(sys.stdout, _Console):
        sys.stdout.flush()
        return code or int(sys.stdout.lost)
    return code


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
    from mmsifa.fileio.text_files import check_delimiter

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
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=speed_estimate_period,
        redirect_stdout=Console().is_terminal,  # else what is printed would go to stderr, too
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
    import torch

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
        help='torch device; default: the first GPU, or else the CPU',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='what to change in the config, KEY=VALUE',
    )
