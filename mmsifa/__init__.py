"""Stand-Alone Inter-Frame Attention (SIFA, CVPR 2022) for MMAction2.

Importing this package mends the gaps of the upstream releases (:mod:`mmsifa.compat`) and registers
the backbones, heads, transforms and metrics with MMAction2; nothing else happens here.
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

from mmsifa import compat  # noqa: E402

compat.apply()

from mmsifa import datasets, engine, evaluation, models, ops  # noqa: E402
from mmsifa.version import __version__  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'engine', 'evaluation', 'models', 'ops']
