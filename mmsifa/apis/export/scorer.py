"""A recognizer as one function of tensors: clips or decoded frames in, scores of classes out."""

from collections.abc import Sequence
from typing import Any

import torch
from mmaction.models import BaseHead, Recognizer2D, Recognizer3D
from mmaction.models.data_preprocessors import ActionDataPreprocessor
from mmaction.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from mmsifa.datasets import ClipAugmentation
from mmsifa.datasets.pipelines import CROPS, frame_size, frame_steps, video_pipeline
from mmsifa.models import SIFAHead

SUPPORTED_CROPS = ('CenterCrop', 'ThreeCrop')
_ONE = 2048  # OpenCV's bilinear weights of bytes are multiples of 1/2048


class Preprocess(nn.Module):
    """Frames of a video to normalized clips, as a test pipeline and a data preprocessor do it.

    Resizing computes what OpenCV computes for bytes, bit by bit: in integers, with weights in
    units of 1/2048, for the positions inside of the crop only.

    Args:
        pipeline: The steps of a test: at most a ``Resize`` and then a ``CenterCrop`` or
            ``ThreeCrop`` between decoding and formatting.
        data_preprocessor: That of the recognizer.

    Raises:
        ValueError: If the pipeline or the data preprocessor does something else.

    Example:
        >>> from mmaction.models import ActionDataPreprocessor
        >>> from mmsifa.apis import load_config
        >>> normalize = ActionDataPreprocessor(mean=[124, 116, 104], std=[58, 57, 57])
        >>> preprocess = Preprocess(load_config('sifa_r50_k400').test_pipeline, normalize)
        >>> frames = torch.zeros(1, 2, 16, 240, 320, 3, dtype=torch.uint8)  # 2 clips of a video
        >>> preprocess(frames).shape  # of 3 crops each
        torch.Size([1, 6, 3, 16, 256, 256])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pipeline: Sequence[dict], data_preprocessor: ActionDataPreprocessor) -> None:
        super().__init__()
        steps = frame_steps(pipeline)
        names = [step['type'] for step in steps]
        self.resize = next((step for step in steps if step['type'] == 'Resize'), None)
        crop = steps[-1] if names and names[-1] in SUPPORTED_CROPS else None
        done = [step['type'] for step in (self.resize, crop) if step]
        self.size = frame_size(steps)
        if names != done or (self.resize and not self.size):
            raise ValueError(
                'preprocessing can hold a Resize to a fixed size, or one before a CenterCrop or '
                f'ThreeCrop, but the test pipeline has {", ".join(names)}'
            )
        if self.resize and (
            self.resize.get('interpolation', 'bilinear') != 'bilinear'
            or not isinstance(self.resize['scale'], Sequence)
        ):
            raise ValueError(
                f'preprocessing can hold a bilinear Resize to a size in pixels, got {self.resize}'
            )
        if type(data_preprocessor) not in (ActionDataPreprocessor, ClipAugmentation):
            raise ValueError(
                'preprocessing can hold an ActionDataPreprocessor, got a '
                f'{type(data_preprocessor).__name__}'
            )
        self.num_crops = CROPS[crop['type']] if crop else 1
        self.to_bgr = data_preprocessor.to_rgb  # it swaps the channels, whatever they are
        self.normalizes = data_preprocessor._enable_normalize
        if self.normalizes:
            self.register_buffer('mean', data_preprocessor.mean.flatten(), persistent=False)
            self.register_buffer('std', data_preprocessor.std.flatten(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Transform frames.

        Args:
            frames: Of videos and their clips, (N, V, T, H, W, 3), uint8, in RGB.

        Returns:
            Clips (N, crops*V, 3, T, H', W'), normalized.
        """
        crops = frames[:, None]
        if self.size:
            crops = torch.stack(
                [self._crop(frames, self.size, *place) for place in self._places()], dim=1
            )
        clips = crops.flatten(1, 2).float()
        if self.to_bgr:
            clips = clips.flip(-1)
        if self.normalizes:
            clips = (clips - self.mean) / self.std
        return clips.permute(0, 1, 5, 2, 3, 4)

    def _places(self) -> list[tuple[int, int]]:
        """Return where crops are: their offsets over half of the room on each side."""
        return [(1, 1)] if self.num_crops == 1 else [(0, 0), (2, 2), (1, 1)]

    def _crop(self, frames: Tensor, crop: tuple[int, int], place_y: int, place_x: int) -> Tensor:
        old = [
            torch.full((), side, dtype=torch.float64, device=frames.device)
            for side in frames.shape[3:5]
        ]
        new = self._resized(*old)
        y, x = (
            torch.arange(size, device=frames.device) + place * ((side - size) / 2).floor()
            for size, side, place in zip(crop, new, (place_y, place_x), strict=True)
        )
        if not self.resize:
            return frames.index_select(3, y.long()).index_select(4, x.long())
        top, bottom, lower = _weigh(y, old[0], new[0], (-1, 1, 1))
        left, right, further = _weigh(x, old[1], new[1], (-1, 1))
        rows = [frames.index_select(3, index) for index in (top, bottom)]
        above, below = (
            row.index_select(4, left).int() * (_ONE - further)
            + row.index_select(4, right).int() * further
            for row in rows
        )
        total = ((above >> 4) * (_ONE - lower) >> 16) + ((below >> 4) * lower >> 16)
        return (total + 2) >> 2

    def _resized(self, height: Tensor, width: Tensor) -> list[Tensor]:
        """Return the height and width after resizing, as ``mmcv.rescale_size`` does."""
        if not self.resize:
            return [height, width]
        scale = self.resize['scale']
        if not self.resize.get('keep_ratio', True):
            return [torch.full_like(height, side) for side in reversed(scale)]
        short, long = torch.minimum(height, width), torch.maximum(height, width)
        if min(scale) == -1:
            factor = max(scale) / short
        else:
            factor = torch.minimum(max(scale) / long, min(scale) / short)
        return [(side * factor + 0.5).floor() for side in (height, width)]


def _weigh(position: Tensor, old: Tensor, new: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the pixels before and after positions of the new size, and the latter's weight."""
    source = ((position + 0.5) * (1 / (new / old)) - 0.5).float()
    before = source.floor()
    weight = ((source - before) * _ONE).round().int()
    last = old.float() - 1
    pixels = [torch.minimum(pixel.clamp(min=0), last).long() for pixel in (before, before + 1)]
    return *pixels, weight.view(shape)


def unsupported_reason(recognizer: type, head: type | None) -> str | None:
    """Return why a recognizer cannot be exported, if so.

    Args:
        recognizer: Its class.
        head: The class of its ``cls_head``, if it has one.

    Returns:
        The reason, None if it can be exported.

    Example:
        >>> unsupported_reason(nn.Identity, None)
        'only Recognizer2D and Recognizer3D can be exported, not Identity'
    """
    if not issubclass(recognizer, (Recognizer2D, Recognizer3D)):
        return f'only Recognizer2D and Recognizer3D can be exported, not {recognizer.__name__}'
    if head is None:
        return 'a recognizer without a cls_head has no scores to export'
    predict: Any = getattr(head, 'predict_by_feat', None)
    predicts_alike = predict in (BaseHead.predict_by_feat, SIFAHead.predict_by_feat)
    if not predicts_alike or head.average_clip is not BaseHead.average_clip:  # type: ignore[attr-defined]
        return f'the head {head.__name__} makes its predictions in a way that cannot be exported'
    return None


def check_config(config: Config) -> None:
    """Check before there are weights whether the recognizer of a config can be exported.

    Args:
        config: The config.

    Raises:
        ValueError: If it cannot.

    Example:
        >>> from mmsifa.apis import load_config
        >>> check_config(load_config('sifa_r50_k400'))
    """
    frame_steps(video_pipeline(config)[0])
    types = [config.model.type, config.model.cls_head.type]
    recognizer, head = (MODELS.get(kind) if isinstance(kind, str) else kind for kind in types)
    if recognizer and head and (reason := unsupported_reason(recognizer, head)):
        raise ValueError(reason)


class Scorer(nn.Module):
    """Score videos as a recognizer does in a test: backbone, neck, head, mean over the views.

    Args:
        recognizer: A ``Recognizer2D`` or ``Recognizer3D`` in test mode. Its setting
            ``max_testing_views``, by which a test takes less memory, is taken away.
        preprocess: What comes before it. Defaults to None.

    Raises:
        ValueError: If such a recognizer is not supported.

    Example:
        >>> import torch
        >>> from mmsifa.apis.analysis import build_untrained
        >>> from mmsifa.apis import load_config
        >>> model = build_untrained(load_config('sifa_tiny_motion')).eval()
        >>> scores = Scorer(model)(torch.rand(2, 3, 3, 16, 32, 32))  # 2 videos, 3 views of each
        >>> scores.shape, scores.sum(dim=1).round(decimals=4).tolist()
        (torch.Size([2, 8]), [1.0, 1.0])
    """

    def __init__(self, recognizer: Any, preprocess: Preprocess | None = None) -> None:
        super().__init__()
        head = type(recognizer.cls_head) if recognizer.with_cls_head else None
        if reason := unsupported_reason(type(recognizer), head):
            raise ValueError(reason)
        self.recognizer = recognizer
        self.preprocess = preprocess
        if recognizer.test_cfg is not None:
            recognizer.test_cfg = {**recognizer.test_cfg, 'max_testing_views': False}

    def forward(self, clips: Tensor) -> Tensor:
        """Score videos.

        Args:
            clips: Views of videos (N, V, 3, T, H, W), normalized; with ``preprocess`` what that
                takes.

        Returns:
            Scores (N, classes); without an average in the head (N, V, classes).
        """
        if self.preprocess is not None:
            clips = self.preprocess(clips)
        if isinstance(self.recognizer, Recognizer2D):
            clips = clips.transpose(2, 3).flatten(1, 2)  # (N, V*T, 3, H, W)
        head = self.recognizer.cls_head
        features, options = self.recognizer.extract_feat(clips.contiguous(), test_mode=True)
        logits = head(features, **options)
        if isinstance(head, SIFAHead):
            logits = head.join_paths(logits)
        return head.average_clip(logits, num_segs=logits.shape[0] // clips.shape[0])
