#!/usr/bin/env bash
# Calls the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer with random arguments:
# `bash dev/sanitize_op.sh [CALLS]` (default 20000). Needs GCC with its sanitizers and about a
# minute to build; dev/fuzz_op.py alone compares the results.
set -euo pipefail
cd "$(dirname "$0")/.."
calls=${1:-20000}
set -- # or the set-up would take it for its own
source tools/setup_env.sh tests

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sanitizers="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
echo "Building the extension with $sanitizers"
CC=gcc CXX=g++ CXXFLAGS="-O1 $sanitizers -fno-omit-frame-pointer" LDFLAGS="$sanitizers" \
    python setup.py --quiet build_ext --build-lib "$folder" --build-temp "$folder/objects"

# Python itself is not instrumented, so the sanitizer comes first by hand; it keeps memory on exit.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    python dev/fuzz_op.py --only-call --calls "$calls" --extension "$folder"/mmsifa/ops/_cpu*.so
