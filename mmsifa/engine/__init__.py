"""What a run needs beside its model: the loop and the hooks that let it survive faults."""

from mmsifa.engine import fsdp, hooks
from mmsifa.engine.loops import ResumableSampler, ResumableTrainLoop, SeededDataset

__all__ = ['ResumableSampler', 'ResumableTrainLoop', 'SeededDataset', 'fsdp', 'hooks']
