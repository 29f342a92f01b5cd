"""Legitimate checkpoint files."""

import shutil
from collections import Counter, OrderedDict

import hostile_checkpoints as hostile
import mmengine.optim
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

STORAGES = (
    'float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8',
    'bool', 'complex64', 'complex128',
)  # fmt: skip
GATHERED = torch.ones(2)
GATHERED._has_been_cloned = True  # as FSDP marks tensors
USUAL = {
    'gathered': {'weight': GATHERED},
    'weights': OrderedDict((name, torch.ones(2, dtype=getattr(torch, name))) for name in STORAGES),
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'history': [HistoryBuffer([0.5], [1]), np.ones(2), np.float32(1), np.zeros(0)],
    # Of a long training of a small network, most of the file
    'long-history': HistoryBuffer([n / 7 for n in range(5000)], [1] * 5000),
    'scheduler': [
        mmengine.optim.OneCycleLR(
            torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1), eta_max=1, total_steps=4
        ).state_dict(),
        Counter([1, 2, 2]),
        {1, 2},
    ],
    'views': [torch.arange(12.0).view(3, 4)[1:, ::2].T, torch.zeros(0, 7), torch.tensor(1)],
    # As torch 0.1 to 0.3 wrote them.
    'first-tensors': hostile.Call(torch._utils._rebuild_tensor, hostile.STORAGE, 1, (2,), (3,)),
    'first-parameters': hostile.Call(torch.nn.Parameter, torch.ones(2)),
}


@pytest.fixture(scope='session')
def usual_files(tmp_path_factory):
    """Checkpoints of all formats, from torch before 1.6 and numpy 1 to those of today."""
    folder = tmp_path_factory.mktemp('usual')
    for name, content in USUAL.items():
        torch.save(content, folder / f'{name}.pth')
        torch.save(content, folder / f'{name}-old.pth', _use_new_zipfile_serialization=False)
    shutil.copy(folder / 'history.pth', folder / 'numpy.pth')
    other = ('core', '_core') if np.__version__ < '2' else ('_core', 'core')
    names = (f'numpy.{name}.multiarray'.encode() for name in other)
    hostile._replace(folder / 'numpy.pth', *names)
    return sorted(folder.iterdir())
