"""Hooks, registered with ``mmaction.registry.HOOKS``; our configs have them on."""

from mmsifa.engine.hooks.atomic_checkpoint import AtomicCheckpointHook
from mmsifa.engine.hooks.bad_videos import BadVideosHook
from mmsifa.engine.hooks.checks import (
    CheckLabelsHook,
    CheckLoadedCheckpointHook,
    InvalidLossHook,
)
from mmsifa.engine.hooks.preemption import PreemptionHook
from mmsifa.engine.hooks.visualization import SIFAVisualizationHook

__all__ = [
    'AtomicCheckpointHook',
    'BadVideosHook',
    'CheckLabelsHook',
    'CheckLoadedCheckpointHook',
    'InvalidLossHook',
    'PreemptionHook',
    'SIFAVisualizationHook',
]
