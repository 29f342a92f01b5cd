"""Checkpoint files: what may be in them, loading them without trust, and whether weights fit."""

from mmsifa.checkpoints.fit import load_fitting_weights
from mmsifa.checkpoints.load import CheckpointError, safe_loading

__all__ = ['CheckpointError', 'load_fitting_weights', 'safe_loading']
