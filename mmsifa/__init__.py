"""Stand-Alone Inter-Frame Attention (SIFA, CVPR 2022) for MMAction2.

Importing it patches MMAction2 and MMEngine (:mod:`mmsifa.engine.patches`) and registers backbones,
heads, transforms, hooks and metrics with MMAction2.
"""

from importlib.util import find_spec

missing = [name for name in ('mmengine', 'mmcv', 'mmaction') if find_spec(name) is None]
if missing:
    raise ImportError(
        f'mmsifa needs MMEngine, MMCV and MMAction2, but {", ".join(missing)} is not installed. '
        "'bash tools/setup_env.sh' in mmsifa's repository installs all that is needed; by hand: "
        'pip install --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmaction2==1.2.0 && '
        "pip install 'mmsifa[runtime]' decord2 opencv-python-headless"
    )

from mmsifa.engine import patches  # noqa: E402

patches.apply()

from mmsifa import datasets, evaluation, models, ops  # noqa: E402
from mmsifa.engine import fsdp, hooks, loops  # noqa: E402
from mmsifa.version import __version__  # noqa: E402

__all__ = [
    '__version__',
    'datasets',
    'evaluation',
    'fsdp',
    'hooks',
    'loops',
    'models',
    'ops',
    'patches',
]
