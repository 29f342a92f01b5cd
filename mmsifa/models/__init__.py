"""Backbones, heads and the blocks they share, registered with ``mmaction.registry.MODELS``."""

from mmsifa.models.heads import SIFAHead
from mmsifa.models.sifa_block import SIFA
from mmsifa.models.sifa_net import SIFANet
from mmsifa.models.sifa_plugin import SIFAPlugin
from mmsifa.models.sifa_transformer import SIFATransformer
from mmsifa.models.temporal_parts import TemporalAttention, TemporalConv, TemporalShift

__all__ = [
    'SIFA',
    'SIFAHead',
    'SIFANet',
    'SIFAPlugin',
    'SIFATransformer',
    'TemporalAttention',
    'TemporalConv',
    'TemporalShift',
]
