"""What a checkpoint may name, and what stands in for it; docs/checkpoints.md explains each name.

torch rebuilds by stand-ins what MMEngine's checkpoints hold beside tensors. The real ``getattr``
would let a file run commands, the real numpy names forge arrays whose items are stray memory.
"""

import pickle
import re
from typing import Any

import numpy as np

try:
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
except ModuleNotFoundError:  # then files that hold its training state do not load
    HistoryBuffer = OneCycleParamScheduler = None

ITEM_SIZES = {
    'torch.DoubleStorage': 8,
    'torch.FloatStorage': 4,
    'torch.HalfStorage': 2,
    'torch.BFloat16Storage': 2,
    'torch.LongStorage': 8,
    'torch.IntStorage': 4,
    'torch.ShortStorage': 2,
    'torch.CharStorage': 1,
    'torch.ByteStorage': 1,
    'torch.BoolStorage': 1,
    'torch.ComplexFloatStorage': 8,
    'torch.ComplexDoubleStorage': 16,
}
HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
# Attributes of classes that a checkpoint may hold.
FUNCTIONS = {
    HISTORY: ('min', 'max', 'current', 'mean'),
    ONE_CYCLE: ('_annealing_cos', '_annealing_linear'),
}
ALLOWED = {
    *ITEM_SIZES,
    'torch._utils._rebuild_tensor_v2',
    'torch._utils._rebuild_tensor',
    'torch._utils._rebuild_parameter',
    'torch._tensor._rebuild_from_type_v2',
    'torch.Tensor',
    'torch.nn.parameter.Parameter',
    'collections.OrderedDict',
    'collections.Counter',
    'builtins.set',
    'builtins.bytes',
    'builtins.getattr',
    '_codecs.encode',
    HISTORY,
    ONE_CYCLE,
    'numpy.dtype',
    'numpy.ndarray',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
}
NUMBERS = re.compile(r'[biufc]\d+')  # numpy's types of them


class _OneCycle:
    """Opaque stand-in for the scheduler whose annealing function a checkpoint names."""


def _getattr(owner, name):
    for stand_in, cls, full in (
        (HistoryBuffer, HistoryBuffer, HISTORY),
        (_OneCycle, OneCycleParamScheduler, ONE_CYCLE),
    ):
        if owner is stand_in and name in FUNCTIONS[full]:
            return getattr(cls, name)
    raise pickle.UnpicklingError(f'it asks for getattr({owner!r}, {name!r})')


class _DType:
    """Stand-in for ``numpy.dtype``: plain numbers only."""

    def __init__(self, code, align=False, copy=False):
        if not NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f'it asks for arrays of numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stand-in for ``numpy.ndarray``, empty until its state is set; it is saved as a real one."""

    def __new__(cls, *args):
        if args:
            raise pickle.UnpicklingError(f'it asks for numpy.ndarray{args}')
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state):
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.dtype, fortran, data))

    def __reduce__(self):
        return np.asarray(self).__reduce__()


def _reconstruct(cls, shape, code):
    return _Array()


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _no_bytes():
    return b''


STAND_INS: dict[str, Any] = {
    'builtins.getattr': _getattr,
    'builtins.bytes': _no_bytes,
    'numpy.dtype': _DType,
    'numpy.ndarray': _Array,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.core.multiarray._reconstruct': _reconstruct,  # files of numpy 1
    'numpy.core.multiarray.scalar': _scalar,
}
if HistoryBuffer is not None:
    STAND_INS |= {HISTORY: HistoryBuffer, ONE_CYCLE: _OneCycle}
