#!/usr/bin/env bash
# Runs every check: format, lint, types, tests. Arguments go to pytest; -n sets its processes (2).
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_env.sh tests
bash tools/setup_browser.sh || echo "The tests of web pages will be skipped"

ruff format --check .
ruff check .
mypy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # for each of the processes
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
