"""Patches of training by several processes on the CPU."""

import os
import shutil
import subprocess

import pytest
import torch
from mmengine.dist import utils as dist_utils
from mmengine.model import MMDistributedDataParallel

from mmsifa.engine.patches import processes


@pytest.mark.slow
def test_two_processes_train_one_model_on_the_cpu(tiny, root, tmp_path, forked):
    hook = f"custom_hooks = [dict(type='KeepWeights', folder={str(tmp_path)!r})]"
    config = tmp_path / 'two.py'
    config.write_text(f'_base_ = {str(tiny)!r}\n{hook}')
    torchrun = shutil.which('torchrun', path=forked['PATH'])
    launch = [torchrun, '--standalone', '--nproc-per-node', '2', '-m']
    command = [*launch, 'mmsifa', 'run', 'train', str(config), '--launcher', 'pytorch', '--amp']
    paths = os.pathsep.join([str(root), str(tiny.parent)])
    variables = {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths}
    done = subprocess.run(
        [*command, '--work-dir', str(tmp_path / 'work')],
        env=forked | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert '[1][2/2]' in done.stdout  # 4 videos, 2 processes

    (before, backend), (first, _), (second, _) = (
        torch.load(tmp_path / name) for name in ('before0.pt', 'after0.pt', 'after1.pt')
    )
    assert backend == 'gloo'
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=0, atol=0)
    weight = 'module.backbone.conv.weight'
    assert not torch.equal(before[weight], first[weight])


@pytest.mark.no_gpu
@pytest.mark.parametrize('asked', ['nccl', 'mpi'])
@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_every_launcher_takes_gloo_for_nccl(launcher, asked, monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.setenv(name, '0')
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.setenv(name, '1')
    for name in ('OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_NODELIST', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')
    taken = []
    monkeypatch.setattr(
        dist_utils.torch_dist, 'init_process_group', lambda backend: taken.append(backend)
    )
    before = torch.cuda.set_device
    getattr(dist_utils, f'_init_dist_{launcher}')(asked)
    assert taken == ['gloo' if asked == 'nccl' else asked]
    assert torch.cuda.set_device is before


@pytest.mark.parametrize(('device', 'device_ids'), [('cpu', None), ('meta', [0])])
def test_only_models_on_the_cpu_lose_their_device_ids(device, device_ids, monkeypatch):
    received = {}

    def record(self, **options):
        received.update(options)

    monkeypatch.setattr(MMDistributedDataParallel.__base__, '__init__', record)
    monkeypatch.setattr(MMDistributedDataParallel, '__setattr__', lambda *args: None)
    MMDistributedDataParallel(module=torch.nn.Linear(1, 1, device=device), device_ids=[0])
    assert received['device_ids'] == device_ids


def test_launchers_are_left_alone_where_a_gpu_is_there(monkeypatch):
    def launcher(backend):
        torch.cuda.set_device(0)

    for name in ('pytorch', 'mpi', 'slurm'):
        monkeypatch.setattr(dist_utils, f'_init_dist_{name}', launcher)
    monkeypatch.setattr(MMDistributedDataParallel, '__init__', MMDistributedDataParallel.__init__)
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    processes.patch_cpu_processes.__wrapped__()  # past the cache
    assert dist_utils._init_dist_pytorch is launcher
