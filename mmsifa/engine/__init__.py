"""What a run needs beside its model: loops, hooks, and patches of upstream.

The functions here register it, and all else that mmsifa has for MMEngine and MMAction2; importing
mmsifa calls them where these are installed.
"""

import functools

from mmengine.analysis.complexity_analysis import _DEFAULT_SUPPORTED_FLOP_OPS
from mmengine.registry import FUNCTIONS  # MMAction2's cannot be read: it names no real module

from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights
from mmsifa.ops.torch_op import multiplications


@functools.cache
def register_op() -> None:
    """Register the op with MMEngine: its functions, and for its counter of multiply-adds.

    Example:
        >>> from mmengine.registry import FUNCTIONS
        >>> FUNCTIONS.get('inter_frame_attention').__name__
        'inter_frame_attention'
    """
    for function in (inter_frame_attention, inter_frame_attention_weights):
        FUNCTIONS.register_module(module=function)
    _DEFAULT_SUPPORTED_FLOP_OPS['mmsifa::inter_frame_attention'] = _multiply_adds


def _multiply_adds(inputs, outputs) -> int:  # MMEngine counts a multiply-add as one
    return multiplications(inputs[0].type().sizes(), inputs[3].toIValue())


@functools.cache
def register_all_modules() -> None:
    """Patch MMEngine and MMAction2, then register all that mmsifa has for them."""
    from mmsifa.engine import patches

    patches.apply()  # before MMAction2's models are imported

    from mmsifa import datasets, models  # noqa: F401
    from mmsifa.engine import hooks, loops, model_wrappers  # noqa: F401

    for name in models.__all__:  # imports their modules, which register them
        getattr(models, name)
