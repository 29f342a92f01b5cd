"""Looking inside: what the inter-frame attention of a recognizer does on a clip."""

from mmsifa.inspection.capture import capture_attention
from mmsifa.inspection.records import Inspection, LayerAttention
from mmsifa.inspection.video import inspect_video

__all__ = ['Inspection', 'LayerAttention', 'capture_attention', 'inspect_video']
