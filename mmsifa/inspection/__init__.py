"""Looking inside: what the inter-frame attention of a recognizer does on a clip."""

from mmsifa.inspection.records import Inspection, LayerAttention

__all__ = ['Inspection', 'LayerAttention']
