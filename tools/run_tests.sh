#!/usr/bin/env bash
# Runs every check: format, lint, types, tests. --fast, the first argument, leaves the slow tests out;
# all others go to pytest, whose -n sets its processes (4: some wait).
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" != --fast ] || set -- -m 'not slow' "${@:2}"
source tools/setup_env.sh tests
bash tools/setup_debian.sh browser || echo "The tests of web pages will be skipped"

ruff format --check .
ruff check .
types=$(mktemp)
trap 'rm "$types"' EXIT
mypy >"$types" 2>&1 & # beside the tests
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # for each of the processes
python -m pytest -n 4 --dist loadfile --no-loadscope-reorder "$@" || failed=$?
wait $! || failed=$?
cat "$types"
exit "${failed:-0}"
