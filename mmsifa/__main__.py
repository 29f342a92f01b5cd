"""The command line: ``mmsifa run TOOL`` runs one of MMAction2's own tools."""

import sys

from mmsifa.commands import run_tool

if __name__ == '__main__':
    if sys.argv[1:2] != ['run']:
        sys.exit(run_tool.USAGE)
    del sys.argv[1]
    run_tool.main()
