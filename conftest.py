"""What the tests of the package and of the projects need."""

import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # lets the GPU kernels run on the CPU

import mmsifa  # noqa: F401  (before anything imports MMAction2's models)

if TYPE_CHECKING:
    from mmengine.config import Config

if find_spec('hypothesis'):  # which the tests of the op do without
    from hypothesis import settings

    settings.register_profile('long')  # of tests/fuzz: see test_fuzzed_op.py
    settings.register_profile('short')

ROOT = Path(__file__).parent


def _missing_mmcv():
    from mmsifa.ops import mmcv

    return mmcv.unsupported_reason(torch.empty(0))


def _missing_triton():
    from mmsifa.ops import triton

    return None if triton.triton else "needs Triton 3.3 or later: 'pip install triton'"


def _missing_slurm():
    from slurm_cluster import missing_programs

    programs = ', '.join(missing_programs())
    return programs and f"{programs} not found: 'bash tools/setup_debian.sh slurm' installs Slurm"


def _missing_browser():
    programs = ', '.join(name for name in ('chromium', 'chromedriver') if not shutil.which(name))
    return (
        programs and f"{programs} not found: 'bash tools/setup_debian.sh browser' installs Chromium"
    )


def patch_interpreter():
    """Have Triton's interpreter patch its language once, not at each call of a function.

    It never undoes what it does at a call, and takes half of its time for it.
    """
    from triton.runtime import interpreter

    patch, seen = interpreter._patch_lang, set()

    def patch_once(function):
        if function.__module__ not in seen:
            seen.add(function.__module__)
            patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_once


if 'TRITON_INTERPRET' in os.environ and find_spec('triton'):
    patch_interpreter()


# By marker, a function that returns what this machine lacks, and nothing where it lacks nothing.
MISSING = {
    'gpu': lambda: None if torch.cuda.is_available() else 'needs a CUDA GPU',
    'no_gpu': lambda: 'about machines without a GPU' if torch.cuda.is_available() else None,
    'full_mmcv': _missing_mmcv,
    'slurm': _missing_slurm,
    'browser': _missing_browser,
    'triton': _missing_triton,
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test that this machine cannot run; fail where ``MMSIFA_NEEDS`` names its marker."""
    for marker, reason in MISSING.items():
        if item.get_closest_marker(marker) and (missing := reason()):
            needed = os.environ.get('MMSIFA_NEEDS', '').split()
            (pytest.fail if marker in needed else pytest.skip)(missing)


def pytest_configure():
    """Take interrupts, which a shell has its background jobs ignore, and whatever these start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Put the slowest files first, since each runs in one process; mark by fixture and folder."""
    slowest = (
        'test_first_steps', 'test_export', 'test_op_tools', 'test_slurm', 'test_loops',
        'test_backends', 'test_packaging', 'test_docs', 'test_study', 'test_bad_videos',
        'test_prediction', 'test_killed', 'test_configs', 'test_resuming', 'test_torch_op',
        'test_conversion', 'test_plan', 'test_model_index',
    )  # fmt: skip
    items.sort(key=lambda item: item.path.stem not in slowest)
    for item in items:
        fixtures = getattr(item, 'fixturenames', ())
        if 'browser' in fixtures:
            item.add_marker('browser')
            item.add_marker('slow')
        parameters = item.callspec.params if hasattr(item, 'callspec') else {}
        interpreted = parameters.get('backend') == 'triton' and not torch.cuda.is_available()
        if item.path.parent.name == 'e2e' or {'run', 'reported'} & {*fixtures} or interpreted:
            item.add_marker('slow')  # a program that starts imports PyTorch and MMAction2


@pytest.fixture(scope='session')
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope='session', autouse=True)
def _quick_runs():
    """Spare runs in this process that MMEngine formats the config for the log and checkpoints.

    And that it collects garbage with each data set, a tenth of a second among all modules.
    """
    with pytest.MonkeyPatch.context() as patch:
        if find_spec('mmengine'):
            no_garbage = SimpleNamespace(collect=int)
            patch.setattr('mmengine.dataset.base_dataset.gc', no_garbage)
            name = 'mmengine.config.config.FormatCode'  # not in the fork
            patch.setattr(name, lambda text, **_: (text, True), raising=False)
        yield


@pytest.fixture(autouse=True)
def _scope_and_seed():
    if find_spec('mmengine'):  # the tests of the op need none
        from mmengine.registry import init_default_scope

        init_default_scope('mmaction')  # as every MMAction2 config does
    torch.manual_seed(0)


@pytest.fixture(scope='module', autouse=True)
def _freeze_modules():
    """Spare the modules from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def run(request):
    """Run a command as a user would; show its output if it fails.

    Python programs are those of ``forked``, or with ``env``, a process of their own.
    """

    def run(*command, cwd=ROOT, check=True, **kwargs):
        command = [str(part) for part in command]
        if command[0] in ('python', 'mim', 'mmsifa'):
            if 'env' not in kwargs:
                folder = request.getfixturevalue('forked')['PATH'].split(os.pathsep)[0]
                command[0] = f'{folder}/{command[0]}'
            else:
                module = [] if command[0] == 'python' else ['-m', command[0]]
                command[:1] = [sys.executable, *module]
        done = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
        )
        if check and done.returncode:
            pytest.fail(f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}')
        return done

    return run


@pytest.fixture(scope='session')
def forked(tmp_path_factory) -> dict[str, str]:
    """The variables in which ``python``, ``mim``, ``mmsifa`` and ``torchrun`` start at once."""
    from forked_programs import ForkedPrograms

    with ForkedPrograms(tmp_path_factory.mktemp('programs')) as programs:
        yield os.environ | {'PATH': f'{programs.folder}{os.pathsep}{os.environ["PATH"]}'}


@pytest.fixture(scope='session')
def weights_file(tmp_path_factory) -> str:
    """The weights of a 2D ResNet-50."""
    from small_networks import torchvision_weights

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('weights') / 'resnet50.pth'
    torch.save(torchvision_weights(), path)
    return str(path)


@pytest.fixture(scope='session')
def swin():
    """A 2D Swin: MMAction2's, with windows and patches of one frame."""
    from mmaction.models.backbones.swin import SwinTransformer3D
    from small_networks import ARCH, randomized

    torch.manual_seed(0)
    net = randomized(SwinTransformer3D(ARCH, window_size=(1, 7, 7), patch_size=(1, 4, 4)))
    net.eval()  # returns None there
    return net


@pytest.fixture(scope='session')
def official_file(swin, tmp_path_factory) -> str:
    """The 2D Swin's weights in the official naming and layout, with its buffers and classifier."""
    weights = {k.replace('norm3.', 'norm.'): v.clone() for k, v in swin.state_dict().items()}
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    weights['head.weight'] = torch.zeros(1000, 128)
    path = tmp_path_factory.mktemp('swin') / 'swin.pth'
    torch.save({'model': weights}, path)
    return str(path)


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
def motion_data(tmp_path_factory) -> Path:
    """A small motion data set: 16 training and 9 validation clips of 18 frames."""
    from mmsifa.commands.make_motion_dataset import MotionSettings, make_dataset

    out = tmp_path_factory.mktemp('data') / 'motion'
    make_dataset(out, MotionSettings(num_train=16, num_val=9, num_frames=18))
    return out


@pytest.fixture(scope='session')
def kinetics_like(motion_data, tmp_path_factory):
    """Two classes of the motion clips, as videos and as raw frames, in MMAction2's layouts."""
    import cv2
    import decord

    out = tmp_path_factory.mktemp('layouts')
    videos = sorted((motion_data / 'videos_val').glob('*.mp4'))[:3]
    (out / 'videos.txt').write_text(''.join(f'{v.name} {i % 2}\n' for i, v in enumerate(videos)))
    lines = []
    for i, video in enumerate(videos):
        folder = out / 'rawframes' / video.stem
        folder.mkdir(parents=True)
        frames = decord.VideoReader(str(video))
        for t in range(len(frames)):
            bgr = frames[t].asnumpy()[..., ::-1]
            assert cv2.imwrite(str(folder / f'{t + 1:05}.jpg'), bgr)
        lines.append(f'{video.stem} {len(frames)} {i % 2}\n')
    (out / 'rawframes.txt').write_text(''.join(lines))
    return dict(
        VideoDataset=(out / 'videos.txt', dict(video=str(motion_data / 'videos_val'))),
        RawframeDataset=(out / 'rawframes.txt', dict(img=str(out / 'rawframes'))),
    )


@pytest.fixture(scope='session')
def shrink_data(kinetics_like):
    """Point a config to the small data, make its frames small and its run short."""

    def shrink_data(cfg: 'Config', side: int = 64) -> 'Config':
        sizes = {224: side, 256: side}
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.num_workers, loader.persistent_workers, loader.batch_size = 0, False, 2
            loader.dataset.ann_file, loader.dataset.data_prefix = kinetics_like[
                loader.dataset.type.removeprefix('Checked')
            ]
            loader.dataset.ann_file = str(loader.dataset.ann_file)
            for step in loader.dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = tuple(sizes.get(length, length) for length in step.scale)
                for name in {'crop_size', 'input_size'} & step.keys():
                    step[name] = sizes[step[name]]
                if step.get('num_clips', 1) > 2 and step.clip_len > 1:
                    step.num_clips = 2
        cfg.test_dataloader.batch_size = 1
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        return cfg

    return shrink_data


@pytest.fixture(scope='session')
def shrink(shrink_data):
    """Make a config's data and its SIFA-Net or SIFA-Transformer small."""

    def shrink(cfg: 'Config') -> 'Config':
        backbone = cfg.model.backbone
        backbone.pretrained = None
        if backbone.type == 'SIFATransformer':
            backbone.arch = dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2))
            cfg.model.cls_head.in_channels = 64
        else:
            backbone.update(stage_blocks=(1, 2, 1, 2), base_channels=8)
            cfg.model.cls_head.in_channels = 256
        return shrink_data(cfg)

    return shrink
