"""What several test files need."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # lets the GPU kernels run on the CPU

import mmsifa  # noqa: F401  (before anything imports MMAction2's models)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='session')
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _scope_and_seed():
    init_default_scope('mmaction')  # as every MMAction2 config does
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def run():
    """Run a command as a user would; show its output if it fails."""

    def run(*command, cwd=ROOT, check=True, **kwargs):
        command = [str(part) for part in command]
        if command[0] in ('python', 'mim'):
            command[:1] = (
                [sys.executable] if command[0] == 'python' else [sys.executable, '-m', 'mim']
            )
        done = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
        )
        if check and done.returncode:
            pytest.fail(f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}')
        return done

    return run


@pytest.fixture(scope='session')
def import_or_skip():
    """Import a package that is not among ours; skip the test, and say why, where that fails.

    torchvision's wheels, and what is built on them, do not import beside a CPU-only torch.
    """

    def import_or_skip(name):
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f'{name} does not import here: {error}')

    return import_or_skip


@pytest.fixture(scope='session')
def motion_data(tmp_path_factory, run) -> Path:
    """A small motion data set: 16 training and 9 validation clips of 18 frames."""
    out = tmp_path_factory.mktemp('data') / 'motion'
    sizes = ['--num-train', 16, '--num-val', 9, '--num-frames', 18]
    run('python', 'tools/make_motion_dataset.py', out, *sizes)
    return out
