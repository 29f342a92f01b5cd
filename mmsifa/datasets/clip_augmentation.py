"""Augmentation of a batch on the device of the network."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmaction.models.data_preprocessors import ActionDataPreprocessor
from mmaction.registry import MODELS, TRANSFORMS
from mmcv.transforms import BaseTransform, RandomApply
from torch import Tensor

from mmsifa.datasets.transforms import ClipTransform


@MODELS.register_module()
class ClipAugmentation(ActionDataPreprocessor):
    """MMAction2's data preprocessor, which in training augments the clips on the device first.

    It runs steps that a pipeline would run on the CPU, by the same draws up to rounding: one for
    all frames of a sample, others for other samples, from NumPy's generator, which
    ``ResumableTrainLoop`` seeds by the position in the run. Clips reach it as uint8, a quarter of
    what floats would take.

    Args:
        *args: As in ``ActionDataPreprocessor``.
        transforms: The steps: ``ClipColorJitter``, ``ClipGrayscale``, ``ClipGaussianBlur``, and
            these in a ``RandomApply``.
        **kwargs: As in ``ActionDataPreprocessor``.

    Raises:
        ValueError: If a step cannot run on a device.

    Example:
        In a config, which moves the steps there from the pipeline::

            steps = _base_.train_pipeline
            model = dict(data_preprocessor=dict(type='ClipAugmentation', transforms=steps[5:8]))
            train_dataloader = dict(dataset=dict(pipeline=steps[:5] + steps[8:]))
            del steps
    """

    def __init__(self, *args: Any, transforms: Sequence[dict], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transforms = [TRANSFORMS.build(step) for step in transforms]
        for step in self.transforms:
            for leaf in _leaves(step):
                if not (isinstance(leaf, ClipTransform) and leaf.on_device):
                    raise ValueError(
                        'transforms must be ClipColorJitter, ClipGrayscale and ClipGaussianBlur, '
                        f'or these in RandomApply, got {type(leaf).__name__}: leave it in the '
                        'pipeline'
                    )

    def preprocess(
        self, inputs: list[Tensor], data_samples: Any, training: bool = False
    ) -> tuple[Tensor, Any]:
        """Stack and normalize a batch, in training after its augmentation.

        Args:
            inputs: Samples, each (..., 3, H, W) or with ``format_shape='NCTHW'``
                (..., 3, T, H, W), uint8 in training.
            data_samples: Their labels.
            training: Whether to augment. Default: False.

        Returns:
            The batch and the labels.

        Raises:
            ValueError: If a sample to augment has no bytes of three channels.
        """
        if training:
            inputs = [self._augment(clip) for clip in inputs]
        return super().preprocess(inputs, data_samples, training)

    @torch.no_grad()
    def _augment(self, clip: Tensor) -> Tensor:
        frames = self.format_shape == 'NCHW' or (self.format_shape == 'MIX2d3d' and clip.ndim == 3)
        channel = -3 if frames else -4
        if clip.dtype != torch.uint8 or clip.shape[channel] != 3:
            raise ValueError(
                f'ClipAugmentation expects uint8 RGB clips, (..., 3, {"" if frames else "T, "}H, W)'
                f' with format_shape={self.format_shape!r}, got {clip.dtype} of shape '
                f'{tuple(clip.shape)}'
            )
        with torch.autocast(clip.device.type, enabled=False):  # bytes need more than its 8 bits
            results: Any = dict(imgs=clip.movedim(channel, -3).float())
            for step in self.transforms:
                results = step(results)
            return results['imgs'].round().byte().movedim(-3, channel)


def _leaves(step: BaseTransform) -> Iterator[BaseTransform]:
    if isinstance(step, RandomApply):
        for child in step:
            yield from _leaves(child)
    else:
        yield step
