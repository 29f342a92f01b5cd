"""The program ``mmsifa``.

It stands beside the package, since to import that takes seconds: it imports PyTorch and registers
everything with MMAction2. Here the arguments are read first.
"""

import sys
from importlib.util import find_spec, module_from_spec


def main() -> int:
    """Run the command that the process's arguments name; return the exit code."""
    spec = find_spec('mmsifa')
    if spec is None or spec.loader is None:
        sys.exit('mmsifa: Python finds this program but not the package mmsifa: install it again')
    execute = spec.loader.exec_module
    sys.modules['mmsifa'] = package = module_from_spec(spec)  # has its modules, was not executed
    from mmsifa.__main__ import main as run

    return run(load=lambda: execute(package))
