"""Patches of what fails while MMAction2 is imported."""

import functools
import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

import mmcv
from mmengine.utils import digit_version


class _MissingDRN(MetaPathFinder, Loader):
    """Finder and loader of a stand-in for ``mmaction.models.localizers.drn``."""

    package = 'mmaction.models.localizers.drn'

    def find_spec(self, name, path=None, target=None):
        if name in (self.package, f'{self.package}.drn'):
            return ModuleSpec(name, self, is_package=name == self.package)
        return None

    def exec_module(self, module):
        if module.__name__ == self.package:
            return
        from mmaction.registry import MODELS

        @MODELS.register_module()
        class DRN:
            def __init__(self, *args, **kwargs):
                raise ImportError(
                    'DRN is not in the released package of mmaction2 (open-mmlab/mmaction2#2714): '
                    'install MMAction2 from its git repository to use it'
                )

        module.DRN = DRN


@functools.cache
def patch_mmcv_limit():
    """``import mmaction`` refuses MMCV from 2.2 on (mmaction/__init__.py:16).

    Its recognizers work with later ones, as the maintained fork's 2.3.
    """
    version = mmcv.__version__
    mmcv.__version__ = min(version, '2.1.0', key=digit_version)
    try:
        importlib.import_module('mmaction')
    finally:
        mmcv.__version__ = version


@functools.cache
def patch_missing_drn():
    """``import mmaction.models`` fails: the wheel lacks a folder (open-mmlab/mmaction2#2714)."""
    mmaction = importlib.util.find_spec('mmaction')
    folders = (mmaction and mmaction.submodule_search_locations) or []
    if not any(Path(folder, 'models/localizers/drn').exists() for folder in folders):
        sys.meta_path.append(_MissingDRN())  # at the end, so that a real module wins


@functools.cache
def patch_multimodal_import():
    """``import mmaction.models`` fails beside transformers (mmaction/models/multimodal/vindlu).

    Its multimodal models need timm and names that transformers 5 dropped, but only an installed
    transformers is asked for. Without them, upstream's placeholders say what is missing.
    """
    from mmaction.utils import dependency

    if not dependency.WITH_MULTIMODAL:
        return
    try:
        importlib.import_module('timm.models.layers')
        transformers = importlib.import_module('transformers.modeling_utils')
    except (ImportError, RuntimeError):  # the latter from a torchvision of another torch
        dependency.WITH_MULTIMODAL = False
    else:
        dependency.WITH_MULTIMODAL = hasattr(transformers, 'find_pruneable_heads_and_indices')
