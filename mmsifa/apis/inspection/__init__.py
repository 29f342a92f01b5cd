"""Looking inside: what the inter-frame attention of a recognizer does on a clip."""

from mmsifa.apis.inspection.capture import capture_attention
from mmsifa.apis.inspection.inspected_video import inspect_video
from mmsifa.apis.inspection.records import Inspection, LayerAttention

__all__ = ['Inspection', 'LayerAttention', 'capture_attention', 'inspect_video']
