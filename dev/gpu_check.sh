#!/usr/bin/env bash
# Shows on a machine with an NVIDIA GPU that the op is right and how fast it is, in 8 minutes at most:
#
#     bash dev/gpu_check.sh [OUT]            # writes OUT/PART.jsonl; OUT is work_dirs/gpu_check
#     bash dev/gpu_check.sh --report OUT     # writes docs/benchmarks/gpu_NAME.json and .md from them
#     bash dev/gpu_check.sh --dry-run [OUT]  # the same parts, small and on the CPU, to try this command
#
# Needs Python 3.10 or later with torch, triton and pytest, the C compiler that Triton looks for, and
# a plain checkout. Where MMAction2 is installed it trains networks, too. $PYTHON, if not python3.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
for package in torch triton pytest; do
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$package') is None)" || {
        echo "$package is not installed for $python: 'pip install $package', or set PYTHON" >&2
        exit 2
    }
done
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m dev.gpu_check "$@"
