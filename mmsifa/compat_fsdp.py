"""The gaps of MMEngine's FSDP, mended as those in :mod:`mmsifa.compat`."""

import functools

import torch
from mmengine.device import get_device
from mmengine.model import MMFullyShardedDataParallel


@functools.cache
def mend_cpu_fsdp():
    """FSDP fails on the CPU (mmengine/_strategy/fsdp.py:155).

    FSDPStrategy gives a device number, which PyTorch takes for a GPU's.
    """
    if get_device() != 'cpu':
        return
    upstream = MMFullyShardedDataParallel.__init__

    @functools.wraps(upstream)
    def __init__(self, module, *args, device_id=None, **kwargs):
        upstream(self, module, *args, device_id=torch.device('cpu'), **kwargs)

    MMFullyShardedDataParallel.__init__ = __init__
