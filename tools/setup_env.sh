# Sets up the Python environment: `bash tools/setup_env.sh [EXTRA]`. Other scripts source it.
#
# Uses the active virtual environment (conda's, but not its base), or makes .venv at the root of the
# repository (with $PYTHON, default python3) and activates it. Packages that are there in another
# variant are kept: any torch, full MMCV for mmcv-lite, decord for decord2, any OpenCV. A second run
# takes no time.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

prefix=${VIRTUAL_ENV:-}
if [ -z "$prefix" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    prefix=$CONDA_PREFIX
fi
if [ -z "$prefix" ]; then
    if [ ! -e "$root/.venv/bin/activate" ]; then
        echo "Making the virtual environment .venv"
        "${PYTHON:-python3}" -m venv "$root/.venv" || {
            rm -rf "$root/.venv"
            echo "Python's venv is missing: on Debian or Ubuntu run 'apt-get install python3-venv'," \
                "or activate an environment of your own." >&2
            exit 1
        }
    fi
    source "$root/.venv/bin/activate"
    prefix=$VIRTUAL_ENV
fi

has() { python -c "import sys, importlib.util as u; sys.exit(u.find_spec('$1') is None)"; }

install() {
    python -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@" || {
        echo "pip could not install: $*" >&2
        exit 1
    }
}

extra=${1:-}
state="$root $(cat "$root/constraints.txt" "$root/setup.py" "$root/pyproject.toml" \
    "$root/tools/setup_env.sh" "$root"/mmsifa/ops/csrc/* | cksum)"
stamp=$prefix/.mmsifa${extra:+-$extra} # an environment with an extra serves those without

if ! cat "$stamp"* 2>/dev/null | grep -qxF "$state"; then
    echo "Installing packages into $prefix"
    constraints=$root/constraints.txt
    has torch || python -m pip install --quiet --disable-pip-version-check \
        "$(grep '^torch==' "$constraints")" || exit 1 # brings the triton that it wants
    constraints=$prefix/mmsifa-constraints.txt # without torch: the one that is there stays
    grep -v '^torch==' "$root/constraints.txt" >"$constraints"

    [ "$extra" != tests ] || [ "$(uname -s)" != Linux ] || has triton || others=(triton)
    install 'setuptools<81' wheel ${others+"${others[@]}"}
    install --no-build-isolation --editable "$root[mmaction2,mim${extra:+,$extra}]"
    commands=$(mmsifa --mmaction2) && PIP_CONSTRAINT=$constraints PIP_QUIET=1 bash -ec "$commands" || exit 1
    echo "$state" >"$stamp"
fi
