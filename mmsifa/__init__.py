"""Stand-Alone Inter-Frame Attention (SIFA, CVPR 2022) for MMAction2.

Importing this package mends the gaps of the upstream releases (:mod:`mmsifa.compat`) and registers
the backbones, heads and transforms with MMAction2; nothing else happens here.
"""

from mmsifa import compat

compat.apply()

from mmsifa import datasets, models, ops  # noqa: E402
from mmsifa.version import __version__  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'models', 'ops']
