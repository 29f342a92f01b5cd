"""Patches of how MMEngine reads and writes checkpoints."""

import functools

from mmengine.fileio import LocalBackend
from mmengine.infer import BaseInferencer
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa.checkpoints.load import CheckpointError, load_safely
from mmsifa.fileio.atomic_write import write_atomically


@functools.cache
def patch_checkpoint_loading():
    """Resuming and testing fail under torch >= 2.6 (open-mmlab/mmengine#1655).

    ``torch.load`` refuses MMEngine's HistoryBuffer. The patch covers all of ``CheckpointLoader``'s
    schemes, also downloads, which ``torch.hub`` would load without any check.
    """
    upstream = CheckpointLoader.load_checkpoint.__func__

    @functools.wraps(upstream)
    def load_checkpoint(cls, filename, *args, **kwargs):
        return load_safely(functools.partial(upstream, cls), filename, *args, **kwargs)

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


@functools.cache
def patch_config_in_checkpoint():
    """An inferencer without a config runs the one in the checkpoint (mmengine/infer/infer.py:476).

    A config is Python code, and may build any object of any module.
    """
    upstream = BaseInferencer._init_model

    @functools.wraps(upstream)
    def _init_model(self, cfg, weights, *args, **kwargs):
        if not cfg:
            raise CheckpointError(
                f'refused to run the config in the checkpoint {weights}, which may be any code, '
                'expected a config file: give the inferencer one that you trust as its model'
            )
        return upstream(self, cfg, weights, *args, **kwargs)

    BaseInferencer._init_model = _init_model


@functools.cache
def patch_local_writes():
    """A killed run leaves half a checkpoint (mmengine/fileio/backends/local_backend.py:77).

    MMEngine writes every checkpoint through this method, in place.
    """
    if 'open' in LocalBackend.put.__code__.co_names:
        LocalBackend.put = lambda self, obj, filepath: write_atomically(filepath, obj)
