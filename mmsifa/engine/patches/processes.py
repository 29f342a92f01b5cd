"""Patches of training by several processes on the CPU."""

import functools

import torch
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.model import MMDistributedDataParallel


def _without_cuda(init):
    @functools.wraps(init)
    def init_on_cpu(backend='nccl', *args, **kwargs):
        set_device = torch.cuda.set_device
        torch.cuda.set_device = lambda device: None
        try:
            return init('gloo' if backend == 'nccl' else backend, *args, **kwargs)
        finally:
            torch.cuda.set_device = set_device

    return init_on_cpu


@functools.cache
def patch_cpu_processes():
    """Several processes on the CPU fail (mmengine/dist/utils.py:130, runner/runner.py:900).

    MMEngine sets a CUDA device and takes NCCL without asking for a GPU, then gives
    DistributedDataParallel, which refuses that, a device number for a model on the CPU.
    """
    for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
        init = getattr(dist_utils, name)
        used = set(init.__code__.co_names)
        asks = used & {'is_cuda_available', 'is_available', 'get_device'}
        if get_device() == 'cpu' and 'set_device' in used and not asks:
            setattr(dist_utils, name, _without_cuda(init))

    upstream = MMDistributedDataParallel.__init__

    @functools.wraps(upstream)
    def __init__(self, module, *args, device_ids=None, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
        upstream(self, module, *args, device_ids=device_ids, **kwargs)

    MMDistributedDataParallel.__init__ = __init__
