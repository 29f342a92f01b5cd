"""SIFA for any 2D network, on PyTorch alone; backbones and a head for MMAction2.

What needs MMAction2 is registered with ``mmaction.registry.MODELS`` where that is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmsifa.installation import require_mmaction2
from mmsifa.models.clip_network import ClipNetwork, add_sifa
from mmsifa.models.sifa_block import SIFA, SIFAWithLayerNorm

if TYPE_CHECKING:
    from mmsifa.models.heads import SIFAHead
    from mmsifa.models.sifa_net import SIFANet
    from mmsifa.models.sifa_plugin import SIFAPlugin
    from mmsifa.models.sifa_transformer import SIFATransformer
    from mmsifa.models.temporal_parts import TemporalConv, TemporalSequential, TemporalShift

#: What needs MMAction2, and the module that it is in.
_OF_MMACTION2 = {
    'SIFAHead': 'heads',
    'SIFANet': 'sifa_net',
    'SIFAPlugin': 'sifa_plugin',
    'SIFATransformer': 'sifa_transformer',
    'TemporalConv': 'temporal_parts',
    'TemporalSequential': 'temporal_parts',
    'TemporalShift': 'temporal_parts',
}

__all__ = [
    'SIFA',
    'ClipNetwork',
    'SIFAHead',
    'SIFANet',
    'SIFAPlugin',
    'SIFATransformer',
    'SIFAWithLayerNorm',
    'TemporalConv',
    'TemporalSequential',
    'TemporalShift',
    'add_sifa',
]


def __getattr__(name: str) -> Any:
    if name not in _OF_MMACTION2:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    require_mmaction2(f'{__name__}.{name}')
    return getattr(import_module(f'{__name__}.{_OF_MMACTION2[name]}'), name)
