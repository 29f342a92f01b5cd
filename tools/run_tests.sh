#!/usr/bin/env bash
# Runs every check: format, lint, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_env.sh tests

ruff format --check .
ruff check .
mypy
python -m pytest "$@"
