"""One run of a study: ``python -m study FOLDER``."""

import sys
from pathlib import Path

from study.runs import train_and_test

if __name__ == '__main__':
    train_and_test(Path(sys.argv[1]))
