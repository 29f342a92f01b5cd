"""Patches of training in mixed precision."""

import functools
from types import SimpleNamespace

import mmengine.optim
import torch
from mmengine.device import get_device
from mmengine.utils import apply_to


class AmpOptimWrapper(mmengine.optim.AmpOptimWrapper):
    """MMEngine's mixed-precision optimizer wrapper, on the CPU too.

    On the CPU it casts to bfloat16, which needs no loss scaling; elsewhere it is MMEngine's. A run
    may move between the two when it resumes.

    Args:
        loss_scale: As in MMEngine; not used on the CPU.
        dtype: As in MMEngine; on the CPU None or bfloat16.
        use_fsdp: As in MMEngine; not used on the CPU.
        **kwargs: Arguments of ``OptimWrapper``.
    """

    def __init__(self, loss_scale='dynamic', dtype=None, use_fsdp=False, **kwargs):
        if get_device() != 'cpu':
            super().__init__(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
            return
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise ValueError(f'on the CPU, AmpOptimWrapper expects dtype bfloat16, got {dtype}')
        mmengine.optim.OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self.cast_dtype = torch.bfloat16

    def load_state_dict(self, state_dict: dict):
        """Load a state; that of a run on the CPU has no loss scale to restore."""
        if not state_dict.get('loss_scaler', True):
            state_dict.pop('loss_scaler')
        super().load_state_dict(state_dict)


@functools.cache
def patch_cpu_amp():
    """``--amp`` is refused on the CPU (mmengine/optim/optimizer/amp_optimizer_wrapper.py:76).

    open-mmlab/mmpretrain#1556 shows the error. MMAction2's registry comes before MMEngine's.
    """
    from mmaction.registry import OPTIM_WRAPPERS

    OPTIM_WRAPPERS.register_module(name='AmpOptimWrapper', module=AmpOptimWrapper, force=True)


def _float_scores(loss_by_feat):
    @functools.wraps(loss_by_feat)
    def loss_by_float_scores(self, cls_scores, *args, **kwargs):
        scores = apply_to(
            cls_scores,
            lambda x: isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16,
            lambda x: x.float(),
        )
        return loss_by_feat(self, scores, *args, **kwargs)

    return loss_by_float_scores


@functools.cache
def patch_bfloat16_scores():
    """Training in bfloat16 fails: numpy has no such type (mmaction/models/heads/base.py:129).

    The same line is in omni_head.py:104 and rgbpose_head.py:147.
    """
    from mmaction.models.heads import BaseHead, OmniHead, RGBPoseHead
    from mmaction.structures import ActionDataSample

    head = SimpleNamespace(
        num_classes=2, topk=(1,), label_smooth_eps=0, loss_cls=torch.nn.functional.cross_entropy
    )
    scores = torch.zeros(1, 2, dtype=torch.bfloat16)
    try:
        BaseHead.loss_by_feat(head, scores, [ActionDataSample().set_gt_label(0)])
    except TypeError:
        for cls in (BaseHead, OmniHead, RGBPoseHead):
            cls.loss_by_feat = _float_scores(cls.loss_by_feat)
