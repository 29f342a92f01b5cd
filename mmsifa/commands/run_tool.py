"""Run one of MMAction2's own tools.

mmsifa is imported first: a config's custom_imports come too late for tools that import MMAction2's
models first, such as confusion_matrix, and for mmsifa:: bases. TOOL is the name of the tool's file:
train, test, confusion_matrix, get_flops, print_config, publish_model, and so on.

Example:
    mmsifa run train config.py --amp
    torchrun --nproc-per-node 2 -m mmsifa run train config.py --launcher pytorch
"""

import argparse
import contextlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def find_tool(name: str) -> Path:
    """Return the file of one of MMAction2's tools.

    Args:
        name: The file's name without ``.py``, with as much of its folder as makes it unique, such
            as ``train`` or ``kinetics/download``.

    Returns:
        The path of the tool.

    Raises:
        ValueError: If no tool or more than one has this name.

    Example:
        >>> find_tool('confusion_matrix').name
        'confusion_matrix.py'
    """
    import mmaction

    folder = Path(mmaction.__file__).parent / '.mim' / 'tools'
    tools = {path.relative_to(folder).with_suffix(''): path for path in folder.rglob('*.py')}
    wanted = Path(name.removesuffix('.py')).parts
    found = sorted(tool for tool in tools if tool.parts[-len(wanted) :] == wanted)
    if len(found) == 1:
        return tools[found[0]]
    expected = ', '.join(tool.as_posix() for tool in found or sorted(tools))
    problem = 'several tools are' if found else 'no tool is'
    raise ValueError(f'{problem} named {name!r}, expected one of: {expected}')


def run_tool(name: str, argv: Sequence[str] = ()) -> None:
    """Run one of MMAction2's tools in this process, as ``python TOOL ARGS...`` would.

    Args:
        name: The tool, as for :func:`find_tool`.
        argv: The tool's arguments.

    Raises:
        ValueError: If no tool or more than one has this name.
    """
    from mmsifa.checkpoints.load import safe_loading

    tool = find_tool(name)
    # publish_model and reparameterize_model open checkpoints without MMEngine.
    opens_checkpoints = 'torch.load(' in tool.read_text(encoding='utf-8')
    own_argv, sys.argv = sys.argv, [str(tool), *argv]
    sys.path.insert(0, str(tool.parent))
    try:
        with safe_loading() if opens_checkpoints else contextlib.nullcontext():
            runpy.run_path(str(tool), run_name='__main__')
    finally:
        sys.argv = own_argv
        sys.path.remove(str(tool.parent))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('tool', metavar='TOOL', help='such as train or kinetics/download')
    parser.add_argument(
        'args', metavar='ARGS', nargs=argparse.REMAINDER, help='its own arguments; try TOOL --help'
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run the tool that the arguments name."""
    from mmsifa.checkpoints.load import CheckpointError

    try:
        find_tool(args.tool)
    except ValueError as error:
        sys.exit(f'{parser.prog}: {error}')
    try:
        run_tool(args.tool, args.args)
    except CheckpointError as error:
        sys.exit(f'{parser.prog}: {error}')
    return 0
