"""Stand-Alone Inter-Frame Attention (SIFA, CVPR 2022): the op on PyTorch alone, and for MMAction2.

:mod:`mmsifa.ops` and the block of :mod:`mmsifa.models` need PyTorch and nothing else. Where
MMAction2 is installed, importing mmsifa patches it and MMEngine (:mod:`mmsifa.engine.patches`) and
registers backbones, heads, data sets, transforms and hooks (:mod:`mmsifa.engine`).
"""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmsifa.installation import __version__, require_mmaction2

__all__ = ['__version__', 'datasets', 'models', 'ops', 'require_mmaction2']


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def register() -> None:
    """Register with MMEngine and MMAction2 what the packages that are installed allow."""
    if find_spec('mmengine') is not None:
        from mmsifa import engine

        engine.register_op()
        try:
            require_mmaction2('to register with MMAction2 mmsifa')
        except ImportError as error:
            if find_spec('mmaction') is not None:
                warnings.warn(str(error), stacklevel=2)
        else:
            engine.register_all_modules()


# ``python -m mmsifa`` reads its arguments before; Python says so while it looks for its __main__.
if not (sys.argv[:1] == ['-m'] and sys.orig_argv[-len(sys.argv)] == 'mmsifa'):
    register()
