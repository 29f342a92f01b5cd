"""MMAction2's training script with mmsifa imported first: ``mim train mmsifa CONFIG``."""

import sys

from mmsifa.commands.run_tool import run_tool

if __name__ == '__main__':
    run_tool('train', sys.argv[1:])
