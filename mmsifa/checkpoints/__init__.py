"""Checkpoint files: what may be in them, loading them without trust, and whether weights fit."""

from mmsifa.checkpoints.fit import load_fitting_weights
from mmsifa.checkpoints.load import CheckpointError, safe_loading
from mmsifa.checkpoints.trust import load_trusted, write_weights

__all__ = [
    'CheckpointError',
    'load_fitting_weights',
    'load_trusted',
    'safe_loading',
    'write_weights',
]
