"""Deformable inter-frame attention."""

from mmsifa.ops.backends import BACKENDS
from mmsifa.ops.functional import inter_frame_attention, inter_frame_attention_weights

__all__ = ['BACKENDS', 'inter_frame_attention', 'inter_frame_attention_weights']
