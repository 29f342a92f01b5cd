"""Deformable inter-frame attention."""

from mmsifa.ops.functional import BACKENDS, inter_frame_attention

__all__ = ['BACKENDS', 'inter_frame_attention']
