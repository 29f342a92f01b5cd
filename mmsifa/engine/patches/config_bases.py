"""Patches of the configs that a config may inherit from."""

import functools

from mmengine.config import Config
from mmengine.config import utils as config_utils

from mmsifa.fileio.config_files import config_folder


@functools.cache
def patch_config_bases():
    """``_base_ = 'mmsifa::sifa_r50_k400.py'`` is refused (open-mmlab/mmengine#1410).

    MMEngine inherits from a fixed list of packages, from subfolders only, and not from editable
    installs; it also looks for our modules in registries of ours, but they are in MMAction2's.
    """
    config_utils.MODULE2PACKAGE.setdefault('mmsifa', 'mmsifa')
    upstream = Config._get_cfg_path

    @functools.wraps(upstream)
    def _get_cfg_path(cfg_path, filename):
        package, _, name = cfg_path.partition('::')
        if package != 'mmsifa':
            return upstream(cfg_path, filename)
        folder = config_folder()
        if (folder / name).is_file():
            return str(folder / name), 'mmaction'
        known = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*.py')
            if '_base_' not in path.parts
        )
        raise FileNotFoundError(f'{filename} inherits from {cfg_path}, which is none of {known}')

    Config._get_cfg_path = staticmethod(_get_cfg_path)
