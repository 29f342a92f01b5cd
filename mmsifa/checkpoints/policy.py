"""What a checkpoint may name; docs/checkpoints.md says what each is for."""

import re

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
