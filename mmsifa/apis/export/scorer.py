"""A recognizer as one function of tensors: clips in, scores of classes out."""

from typing import Any

from mmaction.models import BaseHead, Recognizer2D, Recognizer3D
from mmaction.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from mmsifa.apis.export.preprocess import Preprocess
from mmsifa.datasets.pipelines import frame_steps, video_pipeline
from mmsifa.models import SIFAHead


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
