"""Patches of training by several processes: on the CPU, and sharded by FSDP."""

import functools
from types import SimpleNamespace

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
from mmengine.runner import FlexibleRunner


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
    if get_device() == 'cpu':
        for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
            setattr(dist_utils, name, _without_cuda(getattr(dist_utils, name)))

    upstream = MMDistributedDataParallel.__init__

    @functools.wraps(upstream)
    def __init__(self, module, *args, device_ids=None, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
        upstream(self, module, *args, device_ids=device_ids, **kwargs)

    MMDistributedDataParallel.__init__ = __init__


@functools.cache
def patch_cpu_fsdp():
    """FSDP fails on the CPU (mmengine/_strategy/fsdp.py:155, :445).

    FSDPStrategy gives a device number, which PyTorch takes for a GPU's. It also moves gathered
    weights to the CPU before it saves them, which frees those that are there already.
    """
    if get_device() != 'cpu':
        return
    upstream = MMFullyShardedDataParallel.__init__, FSDPStrategy._init_state_dict_cfg

    @functools.wraps(upstream[0])
    def __init__(self, module, *args, device_id=None, **kwargs):
        upstream[0](self, module, *args, device_id=torch.device('cpu'), **kwargs)

    @functools.wraps(upstream[1])
    def _init_state_dict_cfg(self, state_dict_cfg):
        upstream[1](self, state_dict_cfg)
        self.state_dict_config.offload_to_cpu = False
        self.optim_state_dict_config.offload_to_cpu = False

    MMFullyShardedDataParallel.__init__ = __init__
    FSDPStrategy._init_state_dict_cfg = _init_state_dict_cfg


@functools.cache
def patch_fsdp_resume():
    """Resuming under FSDP fails (mmengine/_strategy/fsdp.py:410).

    PyTorch 2.1 changed the order of the arguments that MMEngine gives.
    """

    @functools.wraps(FSDPStrategy.load_optim_state_dict)
    def load_optim_state_dict(self, state_dict):
        to_load = MMFullyShardedDataParallel.optim_state_dict_to_load
        state = to_load(self.model, self.optim_wrapper.optimizer, state_dict)
        self.optim_wrapper.load_state_dict(state)

    FSDPStrategy.load_optim_state_dict = load_optim_state_dict


@functools.cache
def patch_flexible_position():
    """FlexibleRunner resumes too late in the run (mmengine/runner/_flexible_runner.py:1580).

    The epoch and iteration that a hook gives it to save are replaced by the next ones, which they
    are already when it saves after a validation. Runner keeps what it is given.
    """
    upstream = FlexibleRunner.save_checkpoint

    @functools.wraps(upstream)
    def save_checkpoint(self, *args, meta=None, **kwargs):
        def before_save_checkpoint(runner, checkpoint):
            checkpoint['meta'].update(meta or {})

        put_back = SimpleNamespace(before_save_checkpoint=before_save_checkpoint)
        self._hooks.append(put_back)
        try:
            upstream(self, *args, meta=dict(meta or {}), **kwargs)
        finally:
            self._hooks.remove(put_back)

    FlexibleRunner.save_checkpoint = save_checkpoint
