"""Developers' tools: sanitizers, the benchmarks and their results, what checks a GPU.

dev/gpu_check.sh runs small and on the CPU, where torch, triton and pytest are alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dev import benchmark_data, benchmark_op
from mmsifa.fileio.video import VideoWriter


def test_sanitizers_find_nothing(run, root):
    done = run('bash', 'dev/sanitize_op.sh', '-q', '--hypothesis-profile=short')
    (called,) = re.findall(r'^Called (.*)', done.stdout, flags=re.MULTILINE)
    assert str(root) not in called
    assert '1 passed' in done.stdout
    assert 'ERROR' not in done.stdout


def test_benchmark_times_the_op_a_block_and_a_network(run, tmp_path):
    quick = ['--rounds', 1, '--seconds', 0.001, '--no-compile']
    run('python', 'dev/benchmark_op.py', tmp_path / 'op', '--shapes', '16 frames, 7', *quick)
    machine, *records = map(json.loads, (tmp_path / 'op.jsonl').read_text().splitlines())
    assert machine['rounds'] == 1
    assert {r['contestant'] for r in records if r['pass'] == 'forward'} == {
        'cpu',
        'reference',
        'grid_sample',
        '3 x 3 convolution',
        'copy of the inputs',
    }
    assert all(record['ms'] > 0 for record in records)

    config = 'configs/sifa_tiny_motion.py'
    append = ['--append', '--network', config]
    benchmark_op.main([str(tmp_path / 'op'), *append, *map(str, quick)])
    append = ['--append', '--block', '--shapes', '16 frames, 7']
    benchmark_op.main([str(tmp_path / 'op'), *append, *map(str, quick)])
    page = (tmp_path / 'op.md').read_text()
    assert '| SIFA-Net, 16 frames, 7 x 7 |' in page
    assert 'sifa_tiny_motion, forward' in page
    assert 'sifa_tiny_motion, training step' in page
    assert '| block, forward + backward, ms | eager |' in page


TORCHVISION = """
from torch.nn import Identity
__version__ = '0.29'
def Grayscale(num_output_channels): return Identity()
def GaussianBlur(kernel_size, sigma): return Identity()
"""


def test_benchmark_times_the_loading_of_clips(run, tmp_path):
    for name in ('torchvision/__init__.py', 'torchvision/transforms.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TORCHVISION)
    (tmp_path / 'videos').mkdir()
    for name, side in (('a', 64), ('b', 720)):
        with VideoWriter(tmp_path / f'videos/{name}.mp4') as writer:
            for i in range(4):
                writer.write(np.full((side, side, 3), 9 * i, np.uint8), i / 10, (i + 1) / 10)
    command = ['dev/benchmark_data.py', tmp_path / 'videos', tmp_path / 'data', '--clips', 2]
    command += ['--seconds', 0, '--workers', 1]
    run('python', *command, env=os.environ | {'PYTHONPATH': str(tmp_path)})
    report = json.loads((tmp_path / 'data.json').read_text())
    assert [source['videos'] for source in report['sources']] == [2, 1]
    for source in report['sources']:
        upstream, ours, prepared = source['contestants']
        names = [step['step'] for step in upstream['steps']]
        assert names[5] == '6 RandomApply(ColorJitter)'
        assert names[6] == names[7].replace('8', '7') == '7 RandomApply(TorchVisionWrapper)'
        assert [step['step'] for step in ours['steps'][5:]] == [
            step['step'] for step in prepared['steps'][5:]
        ]
        assert all(each['loaders'][0]['clips_per_second'] > 0 for each in source['contestants'])
    assert (tmp_path / 'data.md').read_text() == benchmark_data.page(report)


def test_committed_tables_are_those_of_the_committed_measurements(root, tmp_path):
    clips = root / 'docs/benchmarks/data_cpu.json'
    page = benchmark_data.page(json.loads(clips.read_text()))
    assert clips.with_suffix('.md').read_text() == page
    upstream, ours, prepared = (
        f'{1000 / contestant["steps"][-1]["cpu_ms"]["mean"]:.1f}'
        for contestant in json.loads(clips.read_text())['sources'][0]['contestants']
    )
    sentence = f'loads {ours} clips a second, {prepared} when they are prepared, and {upstream}'
    assert sentence in ' '.join((root / 'docs/data.md').read_text().split())
    measured = root / 'docs/benchmarks/op_cpu.jsonl'
    (tmp_path / measured.name).write_bytes(measured.read_bytes())
    benchmark_op.main([str(tmp_path / 'op_cpu'), '--only-table'])
    page = (tmp_path / 'op_cpu.md').read_text()
    assert page == measured.with_suffix('.md').read_text()


# Hides what a machine with a GPU may lack; kills the part "tiles" once, in its first check.
CUSTOMIZE = """
import os
import sys

sys.modules.update(dict.fromkeys(
    ('mmengine', 'mmcv', 'mmaction', 'einops', 'matplotlib', 'rich', 'hypothesis', 'PIL', 'av')
))


def kill(event, args, writes=[]):
    if event == 'open' and str(args[0]).endswith('tiles.jsonl') and args[2] & os.O_WRONLY:
        writes.append(args)
        if len(writes) == 3 and not os.path.exists({mark!r}):
            os.mkdir({mark!r})
            os.kill(os.getpid(), 9)


if '--child tiles' in ' '.join(sys.orig_argv):
    sys.addaudithook(kill)
"""

SANITIZER = """#!/bin/sh
echo "$@" >>{folder}/sanitized
case "$*" in *racecheck*) exit 9 ;; esac
"""


@pytest.fixture
def environment(tmp_path):
    """Return an environment in which packages are hidden and some checks fail."""
    (tmp_path / 'site').mkdir()
    text = CUSTOMIZE.format(mark=str(tmp_path / 'was_killed'))
    (tmp_path / 'site/sitecustomize.py').write_text(text)
    fake = tmp_path / 'bin/compute-sanitizer'
    fake.parent.mkdir()
    fake.write_text(SANITIZER.format(folder=tmp_path))
    fake.chmod(0o755)
    return os.environ | {
        'PYTHON': sys.executable,
        'PYTHONPATH': str(tmp_path / 'site'),
        'PATH': f'{fake.parent}{os.pathsep}{os.environ["PATH"]}',
    }


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def outcomes(file):
    return {r['check']: r for r in records(file) if 'outcome' in r}


@pytest.mark.triton
def test_every_part_runs_and_what_fails_is_named(run, environment, tmp_path):
    """One process is killed, one check fails, and one test, which cannot make its folder."""
    out, command = tmp_path / 'out', ['bash', 'dev/gpu_check.sh', '--dry-run']
    env = environment | {'PYTEST_ADDOPTS': '--basetemp=/dev/null/none'}
    done = run(*command, out, env=env, check=False)
    assert done.returncode == 1
    assert 'networks: this part needs MMEngine, MMCV, MMAction2' in done.stdout
    assert '--tool memcheck' in (tmp_path / 'sanitized').read_text()
    ran = outcomes(out / 'op.jsonl')
    assert any('in_order' in name and r['outcome'] == 'passed' for name, r in ran.items())
    skipped = [r['reason'] for r in ran.values() if r['outcome'] == 'skipped']
    assert skipped
    assert all('needs a CUDA GPU' in reason for reason in skipped)
    assert {r['outcome'] for r in outcomes(out / 'speed.jsonl').values()} == {'passed'}

    def failed(part):
        ((name, record),) = (
            (name, record)
            for name, record in outcomes(out / f'{part}.jsonl').items()
            if record['outcome'] not in ('passed', 'skipped')
        )
        assert record['outcome'] == 'failed'
        return name, record

    test = 'tests/ops/test_triton.py::test_a_rank_of_one_averages_the_gradients[cpu]'
    repeat = 'bash dev/gpu_check.sh --dry-run --part {} --only {!r}'
    tile, killed = failed('tiles')
    assert 'its process ended with -9' in killed['reason']
    assert list(outcomes(out / 'tiles.jsonl')).index(tile) == 0  # and the other one went on
    tool, found = failed('sanitizer')
    assert 'ended with 9' in found['reason']
    assert failed('op')[0] == test
    said = done.stdout.split('Failed, and what repeats it')[1]
    for line, record in (
        (f"{Path(sys.executable).name} -m pytest '{test}'", failed('op')[1]),
        (repeat.format('tiles', tile), killed),
        (f'bash dev/gpu_check.sh --dry-run --part sanitizer --only {tool}', found),
    ):
        assert record['repeat'] == line
        assert line in said
    run(*command, tmp_path / 'again', '--part', 'sanitizer', '--only', 'memcheck', env=env)

    report = ['--report', out, '--to', tmp_path, '--name', 'here']
    run('bash', 'dev/gpu_check.sh', *report, env=env)
    assert json.loads((tmp_path / 'gpu_here.json').read_text())['speed']['results']
    page = (tmp_path / 'gpu_here.md').read_text()
    heads = ['part', 'forward', 'backward', 'block, forward | eager', 'fastest']
    for head in (*(f'| {head} |' for head in heads), 'bound by |'):
        assert head in page
    assert "('backward', 16, 4): Tile(" in page
    assert 'backward in order, bfloat16: times atomics | at most 20 |' in page


@pytest.mark.triton
def test_what_was_written_is_kept_when_it_is_cut_off(environment, root, run, tmp_path):
    out = tmp_path / 'out'
    command = ['bash', 'dev/gpu_check.sh', '--dry-run', out, '--part', 'machine']
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL) as process:
        file = out / 'machine.jsonl'
        while process.poll() is None and not (file.exists() and 'one launch' in outcomes(file)):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    written = file.read_text()
    ran = outcomes(file)
    assert ran['describe']['outcome'] == 'passed'
    assert ran['one launch']['outcome'] == 'started'
    time.sleep(2)
    assert file.read_text() == written  # its processes have ended, too

    run(
        'bash',
        'dev/gpu_check.sh',
        '--report',
        out,
        '--to',
        tmp_path,
        '--name',
        'cut',
        env=environment,
    )
    page = (tmp_path / 'gpu_cut.md').read_text()
    assert '| machine | 1 passed, 1 cut off, 1 not begun |' in page
    assert '| op | not begun |' in page
