"""Measures, registered with ``mmaction.registry.METRICS``."""

from mmsifa.evaluation.accuracy_by import AccuracyBy

__all__ = ['AccuracyBy']
