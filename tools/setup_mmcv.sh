#!/usr/bin/env bash
# Replaces mmcv-lite by full MMCV, with compiled ops: `bash tools/setup_mmcv.sh [EXTRA]`.
#
# In the environment of tools/setup_env.sh, which it sets up first. MMCV is compiled once for each
# torch, Python and type of machine, with CUDA where torch sees a GPU (or FORCE_CUDA=1); the wheel
# stays in ${XDG_CACHE_HOME:-~/.cache}/mmsifa and serves every later run, without a network.
# MAX_JOBS sets the number of compilers at work.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" "${1:-}"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

requirement=$(grep '^mmcv==' "$root/constraints.txt")
target=$(python - <<'PYTHON'
import os, platform, sys
import torch

device = 'cpu'
if torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1':
    found = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    archs = os.getenv('TORCH_CUDA_ARCH_LIST') or ' '.join(f'{a}.{b}' for a, b in sorted(set(found)))
    device = '-'.join(['cuda', *archs.replace(';', ' ').split()])
python = sys.implementation.cache_tag
print(f'torch-{torch.__version__}-{python}-{platform.system()}-{platform.machine()}-{device}')
PYTHON
)
check='import mmcv.ops'
case $target in
*-cuda*) check+="; assert mmcv.ops.get_compiling_cuda_version() != 'not available', 'no CUDA'" ;;
esac
if python -c "$check" 2>/dev/null; then
    echo "Full MMCV is there already, in $prefix"
    exit
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mmsifa/${requirement/==/-}-$target

# Prints how long the build runs and ninja's [i/n], every half minute.
show_progress() {
    local done
    while sleep 30 >/dev/null 2>&1; do
        done=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" | tail -n 1 | tr -d ' []' || true)
        echo "  $((SECONDS / 60)) min $((SECONDS % 60)) s${done:+, $done files compiled}"
    done
}

clean_up() {
    kill "$ticker" && wait "$ticker" || true
    rm -rf "$work"
} 2>/dev/null

build() {
    "${CXX:-c++}" --version >/dev/null 2>&1 || fail \
        "There is no C++ compiler '${CXX:-c++}' to build MMCV's ops with. On Debian or Ubuntu run" \
        "'apt-get install g++ python3-dev', in conda 'conda install -c conda-forge cxx-compiler'."
    case $target in
    *-cuda*)
        python -c 'import torch.utils.cpp_extension as c, sys; sys.exit(not c.CUDA_HOME)' || fail \
            "There is no nvcc to build MMCV's ops for the GPU with: install the CUDA toolkit of" \
            "torch.version.cuda and set CUDA_HOME."
        ;;
    esac
    work=$(mktemp -d "$cache/build.XXXXXX")
    log=$cache/build.log
    SECONDS=0
    show_progress &
    ticker=$!
    trap clean_up EXIT

    cores=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    export MAX_JOBS=${MAX_JOBS:-$cores}
    echo "Building $requirement for $target with MAX_JOBS=$MAX_JOBS, once."
    echo "It takes about 20 minutes on 2 cores, longer with CUDA. Log: $log"
    pip=(python -m pip --disable-pip-version-check)
    # No pip cache, which would return a wheel for another torch.
    {
        { ninja --version || "${pip[@]}" install --target "$work/tools" ninja; } &&
            PATH=$work/tools/bin:$PATH MMCV_WITH_OPS=1 "${pip[@]}" wheel --verbose \
                --no-cache-dir --no-binary mmcv --no-build-isolation --no-deps \
                --wheel-dir "$work" "$requirement" &&
            "${pip[@]}" install --no-deps --target "$work/check" "$work"/mmcv-*.whl &&
            PYTHONPATH=$work/check python -c "$check"
    } >"$log" 2>&1 || fail \
        "$(grep -iE 'error: |killed' "$log" | head -n 5 | cut -c 1-300)" \
        "MMCV could not be built. Above are the first errors in $log." \
        "Where Python.h is missing, install python3-dev. Where a compiler was killed, memory ran" \
        "out: run this again with MAX_JOBS=1."
    mv "$work"/mmcv-*.whl "$cache/"
    clean_up
    trap - EXIT
    echo "Built in $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

mkdir -p "$cache"
ls "$cache"/mmcv-*.whl >/dev/null 2>&1 || build
echo "Installing $(ls "$cache"/mmcv-*.whl) into $prefix"
python -m pip uninstall -qq --yes mmcv mmcv-lite # they install the same module
python -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$cache"/mmcv-*.whl
problem=$(python -c "$check" 2>&1) || fail "${problem##*$'\n'}" \
    "The wheel in $cache does not work here: remove that folder and run this script again."
