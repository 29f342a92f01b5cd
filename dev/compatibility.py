"""Run the fast tests on one wheel under several versions of Python, PyTorch and MMEngine.

Each environment is made by uv, which has to find the Pythons, and removed. docs/compatibility.json
gets an entry after each; docs/compatibility.md is made from them. What uv reads (UV_FIND_LINKS,
UV_CACHE_DIR, ...) applies. An environment downloads up to 3 GB and runs for minutes.

Example:
    python dev/compatibility.py --only 3.12
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import table
from mmsifa.installation import ALONE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs/compatibility.md'

# Packages that are installed without their dependencies. uv builds the fork of MMCV apart from
# PyTorch, so without compiled operators.
SIDES = {
    'op alone': (),
    'MMAction2': tuple(ALONE.values()),
    'forks': ('onedl-mmengine==0.10.12', 'onedl-mmcv==2.3.6', ALONE['mmaction']),
}
OF_MMACTION2 = ('decord2', 'opencv-python-headless', 'triton')
OP: tuple[str, ...] = ('tests/ops',)
ALL = (
    *(f'tests/{name}' for name in ('apis', 'checkpoints', 'commands', 'datasets', 'engine')),
    *('tests/fileio', 'tests/models', *OP, 'tests/test_configs.py'),
)


class Environment(NamedTuple):
    """What is installed."""

    python: str
    torch: str
    side: str


ENVIRONMENTS = (
    Environment('3.10', '2.6.0', 'MMAction2'),
    Environment('3.10', '2.11.0', 'op alone'),
    Environment('3.11', '2.13.0', 'MMAction2'),
    Environment('3.11', '2.13.0', 'forks'),
    Environment('3.12', '2.10.0', 'MMAction2'),
    Environment('3.13', '2.10.0', 'op alone'),
    Environment('3.13', '2.15.0', 'MMAction2'),
)

VERSIONS = """
import json, platform, warnings
from importlib import metadata
warnings.simplefilter('ignore')
import torch
from mmsifa.ops import BACKENDS

names = {'mmengine', 'onedl-mmengine', 'mmcv-lite', 'onedl-mmcv', 'mmaction2', 'numpy', 'triton'}
there = {d.name.lower(): d.version for d in metadata.distributions() if d.name.lower() in names}
missing = BACKENDS['cpu'].unsupported_reason(torch.ones(1, 1, 1, 1, 1))
print(json.dumps({
    'python': platform.python_version(),
    'torch': torch.__version__,
    'kernels': 'reference' if missing else 'C++',
    'packages': there,
}))
"""


def run(*command: Any, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess:
    """Run a command and stop if it fails."""
    return subprocess.run([*map(str, command)], cwd=cwd, check=True, text=True, **kwargs)


def build(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    options = ('--no-deps', '--no-build-isolation', '--wheel-dir', folder)
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', *options, ROOT, cwd=folder)
    return next(folder.glob('mmsifa-*.whl'))


def copy_tests(folder: Path) -> Path:
    """Copy what git tracks but the package, which the tests would import in the wheel's place."""
    for name in run('git', 'ls-files', cwd=ROOT, stdout=subprocess.PIPE).stdout.splitlines():
        if not name.startswith('mmsifa') and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def try_out(environment: Environment, wheel: Path, tests: Path, folder: Path) -> dict[str, Any]:
    """Make an environment, run its tests and return what happened."""
    run('uv', 'venv', '--quiet', '--python', environment.python, folder, cwd=tests)
    install = ('uv', 'pip', 'install', '--quiet', '--python', folder)
    packages = [f'torch=={environment.torch}', 'numpy', 'pytest', 'pytest-xdist', 'setuptools<81']
    if environment.side == 'op alone':
        asked = OP
        packages.append(str(wheel))
    else:
        asked = ALL
        packages += [f'mmsifa[tests] @ {wheel.as_uri()}', *OF_MMACTION2]
    run(*install, *packages, cwd=tests)
    if SIDES[environment.side]:
        run(*install, '--no-deps', *SIDES[environment.side], cwd=tests)
    python = folder / 'bin/python'
    entry = json.loads(run(python, '-c', VERSIONS, cwd=folder, stdout=subprocess.PIPE).stdout)
    report = folder / 'report.xml'
    options = ('-q', '-n', '2', '-m', 'not slow', '-o', 'addopts=', f'--junitxml={report}')
    command = (python, '-W', 'ignore', '-m', 'pytest', *options, *asked)
    subprocess.run([*map(str, command)], cwd=tests, env=os.environ | {'OMP_NUM_THREADS': '1'})
    cases = {
        f'{case.get("classname")}::{case.get("name")}': {outcome.tag for outcome in case}
        for case in ElementTree.parse(report).iter('testcase')
    }
    failed = sorted(name for name in cases if cases[name] & {'failure', 'error'})
    skipped = sum('skipped' in outcomes for outcomes in cases.values())
    commit = run('git', 'rev-parse', '--short', 'HEAD', cwd=ROOT, stdout=subprocess.PIPE).stdout
    return entry | {
        'asked': [*environment],
        'tests': list(asked),
        'passed': len(cases) - len(failed) - skipped,
        'skipped': skipped,
        'failed': failed,
        'machine': f'{platform.system()} {platform.machine()}',
        'date': date.today().isoformat(),
        'commit': commit.strip(),
    }


def page(entries: list[dict[str, Any]]) -> str:
    """Return the page that shows the entries."""
    rows = []
    for entry in entries:
        there = {
            name.removeprefix('onedl-'): version for name, version in entry['packages'].items()
        }
        engine, mmcv = there.get('mmengine', '-'), there.get('mmcv', there.get('mmcv-lite', '-'))
        counts = entry['passed'], entry['skipped'], len(entry['failed'])
        versions = [entry['python'], entry['torch'], engine, mmcv]
        folders = [name.removeprefix('tests/') for name in entry['tests']]
        tests = 'all' if entry['tests'] == [*ALL] else '+'.join(folders)
        rows.append([*versions, tests, *map(str, counts)])
    days = sorted(entry['date'] for entry in entries)
    when = ' to '.join(dict.fromkeys([days[0], days[-1]]))
    machines = ' and '.join(sorted({entry['machine'] for entry in entries}))
    head = ['Python', 'PyTorch', 'MMEngine', 'MMCV', 'tests of', 'passed', 'skipped', 'failed']
    return f"""# Tested versions

Written by [dev/compatibility.py](../dev/compatibility.py): fast tests of a wheel, {when},
{machines}, no GPU. Other packages are the newest that fit. MMEngine 0.10.12 and MMCV 2.3.6
are the forks `onedl-*`.

{table(head, rows, words=5)}"""


def main() -> None:
    """Try the environments that the command line chooses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', default='', help='environments with this in PYTHON-TORCH-SIDE')
    parser.add_argument('--wheel', type=Path, help='try this one (that of the checkout is built)')
    parser.add_argument(
        '--only-page', action='store_true', help='make the page from the file alone'
    )
    args = parser.parse_args()
    results = PAGE.with_suffix('.json')
    entries = json.loads(results.read_text()) if results.exists() else []
    chosen = [e for e in ENVIRONMENTS if args.only in '-'.join(e) and not args.only_page]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tests = copy_tests(work / 'tests')
        for environment in chosen:
            print('Python {}, PyTorch {}, {}'.format(*environment), flush=True)
            args.wheel = args.wheel or build(work)
            entry = try_out(environment, args.wheel.absolute(), tests, work / 'environment')
            shutil.rmtree(work / 'environment')
            entries = [e for e in entries if e['asked'] != entry['asked']] + [entry]
            entries.sort(key=lambda entry: entry['asked'])
            write_atomically(results, json.dumps(entries, indent=1) + '\n')
    write_atomically(PAGE, page(entries))


if __name__ == '__main__':
    main()
