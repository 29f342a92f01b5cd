"""MMAction2's test script with mmsifa imported first: ``mim test mmsifa CONFIG ...``."""

import sys

from mmsifa.commands.run_tool import run_tool

if __name__ == '__main__':
    run_tool('test', sys.argv[1:])
