"""One run of a study: ``python -m mmsifa.study FOLDER``."""

import sys
from pathlib import Path

from mmsifa.study.runs import train_and_test

if __name__ == '__main__':
    train_and_test(Path(sys.argv[1]))
