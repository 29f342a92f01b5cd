"""What a machine may lack: markers of the tests that need it, and how to get it."""

import shutil
from importlib.util import find_spec

import torch
from slurm_cluster import missing_programs


def _missing_mmcv():
    from mmsifa.ops import mmcv

    return mmcv.unsupported_reason(torch.empty(0))


def _missing_slurm():
    programs = ', '.join(missing_programs())
    return programs and f"{programs} not found: 'bash tools/setup_slurm.sh' installs Slurm"


def _missing_browser():
    programs = ', '.join(name for name in ('chromium', 'chromedriver') if not shutil.which(name))
    return programs and f"{programs} not found: 'bash tools/setup_browser.sh' installs Chromium"


#: By marker, a function that returns what is missing, and nothing where it is there.
MISSING = {
    'gpu': lambda: None if torch.cuda.is_available() else 'needs a CUDA GPU',
    'no_gpu': lambda: 'about machines without a GPU' if torch.cuda.is_available() else None,
    'full_mmcv': _missing_mmcv,
    'slurm': _missing_slurm,
    'browser': _missing_browser,
    'triton': lambda: None if find_spec('triton') else "needs Triton: 'pip install triton'",
}
