#!/usr/bin/env bash
# Calls the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer with random arguments:
# `bash dev/sanitize_op.sh [--hypothesis-profile=long]`. Needs GCC with its sanitizers and about a
# minute to build. Arguments go to pytest, which compares the results as well.
set -euo pipefail
cd "$(dirname "$0")/.."
options=("$@")
set -- # or the set-up would take them for its own
source tools/setup_env.sh tests

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# One instruction set: without vectors, at -O1, all of them touch the same memory.
sanitizers="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
flags="-O1 -DMULTIVERSION= $sanitizers -fno-omit-frame-pointer"
echo "Building the extension with $flags"
cp -r mmsifa tests conftest.py pyproject.toml "$folder" # pytest puts their folder first
rm -f "$folder"/mmsifa/ops/_cpu*.so
CC=gcc CXX=g++ CXXFLAGS=$flags LDFLAGS="$sanitizers" \
    python setup.py --quiet build_ext --force --build-lib "$folder" --build-temp "$folder/objects"

# Python itself is not instrumented, so the sanitizer comes first by hand; it keeps memory on exit.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
cd "$folder"
python - --capture=no -k calls_of_cpu "${options[@]}" tests/fuzz/test_fuzzed_op.py <<'END'
import sys

sys.modules.update(dict.fromkeys(('mmengine', 'triton')))  # the kernels need neither

import pytest

from mmsifa.ops import cpu

status = pytest.main(sys.argv[1:])
print('Called', cpu.LIBRARY)
sys.exit(status)
END
