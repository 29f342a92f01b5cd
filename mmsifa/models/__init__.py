"""Backbones, heads and the block they share, registered with ``mmaction.registry.MODELS``."""

from mmsifa.models.heads import SIFAHead
from mmsifa.models.layers import SIFA
from mmsifa.models.sifa_net import SIFANet
from mmsifa.models.sifa_plugin import SIFAPlugin
from mmsifa.models.sifa_transformer import SIFATransformer

__all__ = ['SIFA', 'SIFAHead', 'SIFANet', 'SIFAPlugin', 'SIFATransformer']
