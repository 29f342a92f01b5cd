"""Patches of files that MMEngine reads and writes: checkpoints, and the bases of configs."""

import functools

from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.fileio import LocalBackend
from mmengine.infer import BaseInferencer
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa.checkpoints.load import CheckpointError, load_safely
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.config_files import config_folder


@functools.cache
def patch_checkpoint_loading():
    """Resuming and testing fail under torch >= 2.6 (open-mmlab/mmengine#1655).

    ``torch.load`` refuses MMEngine's HistoryBuffer. The patch covers all of ``CheckpointLoader``'s
    schemes, also downloads, which ``torch.hub`` would load without any check.
    """
    upstream = CheckpointLoader.load_checkpoint.__func__

    @functools.wraps(upstream)
    def load_checkpoint(cls, filename, *args, **kwargs):
        return load_safely(functools.partial(upstream, cls), filename, *args, **kwargs)

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


@functools.cache
def patch_config_in_checkpoint():
    """An inferencer without a config runs the one in the checkpoint (mmengine/infer/infer.py:476).

    A config is Python code, and may build any object of any module.
    """
    upstream = BaseInferencer._init_model

    @functools.wraps(upstream)
    def _init_model(self, cfg, weights, *args, **kwargs):
        if not cfg:
            raise CheckpointError(
                f'refused to run the config in the checkpoint {weights}, which may be any code, '
                'expected a config file: give the inferencer one that you trust as its model'
            )
        return upstream(self, cfg, weights, *args, **kwargs)

    BaseInferencer._init_model = _init_model


@functools.cache
def patch_local_writes():
    """A killed run leaves half a checkpoint (mmengine/fileio/backends/local_backend.py:77).

    MMEngine writes every checkpoint through this method, in place.
    """
    LocalBackend.put = lambda self, obj, filepath: write_atomically(filepath, obj)


@functools.cache
def patch_config_bases():
    """``_base_ = 'mmsifa::sifa_r50_k400.py'`` is refused (open-mmlab/mmengine#1410).

    MMEngine inherits from a fixed list of packages, from subfolders only, and not from editable
    installs; it also looks for our modules in registries of ours, but they are in MMAction2's.
    For a base of MMAction2's it first reads all of its metafiles, most of a config's time.
    """
    config_utils.MODULE2PACKAGE.setdefault('mmsifa', 'mmsifa')
    upstream = Config._get_cfg_path

    @functools.wraps(upstream)
    def _get_cfg_path(cfg_path, filename):
        package, _, name = cfg_path.partition('::')
        if package not in ('mmaction', 'mmsifa'):
            return upstream(cfg_path, filename)
        folder = config_folder(package)
        if (folder / name).is_file():
            return str(folder / name), 'mmaction'
        if package == 'mmaction':
            return upstream(cfg_path, filename)
        known = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*.py')
            if '_base_' not in path.parts
        )
        raise FileNotFoundError(f'{filename} inherits from {cfg_path}, which is none of {known}')

    Config._get_cfg_path = staticmethod(_get_cfg_path)
