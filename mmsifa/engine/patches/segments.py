"""Patches of what MMAction2 tells a 2D backbone about its clips."""

import functools


@functools.cache
def patch_segments():
    """No 2D backbone learns how long clips are (mmaction/models/recognizers/recognizer2d.py:49).

    Recognizer2D makes one row of the frames of all clips, crops and videos. Here it shows what the
    pipeline chose, which PackActionInputs would drop, to a backbone that wants to check it.
    """
    from mmaction.datasets.transforms import PackActionInputs
    from mmaction.models import Recognizer2D

    init, upstream = PackActionInputs.__init__, Recognizer2D.forward

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.meta_keys = (*self.meta_keys, 'num_clips', 'clip_len')

    @functools.wraps(upstream)
    def forward(self, inputs, data_samples=None, *args, **kwargs):
        check = getattr(self.backbone, 'check_segments', None)
        if check is not None:
            check(inputs.shape[1], data_samples)
        return upstream(self, inputs, data_samples, *args, **kwargs)

    PackActionInputs.__init__, Recognizer2D.forward = __init__, forward
