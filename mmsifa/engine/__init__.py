"""What a run needs beside its model: the loop and the hooks that let it survive faults."""

from mmsifa.engine import hooks

__all__ = ['hooks']
