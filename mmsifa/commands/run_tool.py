"""Run one of MMAction2's own tools with mmsifa imported first.

    python -m mmsifa run TOOL [ARGS...]
    torchrun --nproc-per-node 2 -m mmsifa run train CONFIG --launcher pytorch

A config's ``custom_imports`` come too late for tools that import MMAction2's models first, such as
``confusion_matrix``, and for ``mmsifa::`` bases.
"""

import contextlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import mmaction

from mmsifa.checkpoints.load import CheckpointError, safe_loading

USAGE = """usage: python -m mmsifa run TOOL [ARGS...]

TOOL is one of MMAction2's tools, by the name of its file: train, test, confusion_matrix, get_flops,
print_config, publish_model, ...; ARGS are its own arguments (try TOOL --help)."""


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


def main() -> None:
    """Run the tool that the command line names."""
    if len(sys.argv) < 2:
        sys.exit(USAGE)
    name, *argv = sys.argv[1:]
    if name in ('-h', '--help'):
        print(USAGE)
        return
    try:
        find_tool(name)
    except ValueError as error:
        sys.exit(f'mmsifa run: {error}')
    try:
        run_tool(name, argv)
    except CheckpointError as error:
        sys.exit(f'mmsifa run: {error}')


if __name__ == '__main__':
    main()
