"""Runs Python programs in forks of a process that has imported PyTorch and MMAction2.

A process that starts on its own imports them for 8 seconds. A fork gets the arguments, folder and
environment that it would have, and runs the same program as ``__main__``.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

_forks = multiprocessing.get_context('forkserver')
_forks.set_forkserver_preload(['mmsifa', 'mmaction.apis', 'mim'])


def run_python(arguments: list[str], cwd: Path, output: Path) -> int:
    """Run ``python -m MODULE ...`` or ``python FILE ...``.

    Args:
        arguments: What follows ``python``.
        cwd: The folder to run in.
        output: The file that standard output and error are written into.

    Returns:
        The exit code.
    """
    process = _forks.Process(target=_main, args=(arguments, cwd, output, dict(os.environ)))
    process.start()
    process.join()
    return process.exitcode


def _main(arguments: list[str], cwd: Path, output: Path, environ: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    with output.open('wb') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    own = dict(closefd=False, encoding=environ.get('PYTHONIOENCODING'))
    sys.stdout = os.fdopen(1, 'w', **own)
    sys.stderr = os.fdopen(2, 'w', buffering=1, errors='backslashreplace', **own)
    module = arguments[0] == '-m'
    sys.argv = arguments[module:]
    sys.path.insert(0, str(cwd if module else (cwd / arguments[0]).parent))
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name='__main__')
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
