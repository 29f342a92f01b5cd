"""Measures, registered with ``mmaction.registry.METRICS``."""

from mmsifa import require_mmaction2

require_mmaction2('mmsifa.evaluation')

from mmsifa.evaluation.accuracy_by import AccuracyBy

__all__ = ['AccuracyBy']
