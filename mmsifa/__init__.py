"""Stand-Alone Inter-Frame Attention (SIFA, CVPR 2022): the op on PyTorch alone, and for MMAction2.

:mod:`mmsifa.ops` and the block of :mod:`mmsifa.models` need PyTorch and nothing else. Where
MMAction2 is installed, importing mmsifa patches it and MMEngine (:mod:`mmsifa.engine.patches`) and
registers backbones, heads, data sets, transforms and hooks (:mod:`mmsifa.engine.registration`).
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmsifa.version import __version__

__all__ = ['__version__', 'datasets', 'models', 'ops', 'require_mmaction2']


def require_mmaction2(what: str) -> None:
    """Refuse to go on without MMAction2 and what it needs.

    Args:
        what: What needs it, for the error.

    Raises:
        ImportError: If MMEngine, MMCV or MMAction2 is not installed; it says how to get them.
    """
    missing = _missing_packages()
    if missing:
        raise ImportError(
            f'{what} needs MMEngine, MMCV and MMAction2, but {", ".join(missing)} is not '
            "installed: 'bash tools/setup_env.sh' in mmsifa's repository installs all that is "
            'needed, or by hand '
            'pip install --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmaction2==1.2.0 && '
            "pip install 'mmsifa[runtime]' decord2 opencv-python-headless"
        )


def _missing_packages() -> list[str]:
    return [name for name in ('mmengine', 'mmcv', 'mmaction') if find_spec(name) is None]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


if find_spec('mmengine') is not None:
    from mmsifa.engine import registration

    registration.register_op()
    if not _missing_packages():
        registration.register_all_modules()
