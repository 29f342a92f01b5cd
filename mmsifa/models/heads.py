"""The two-path classification head of SIFA-Net."""

import math

import torch
import torch.nn.functional as F
from mmaction.models.heads import BaseHead
from mmaction.registry import MODELS
from mmengine.model import normal_init
from torch import Tensor, nn

from mmsifa.ops.arguments import (
    check_configs,
    check_flags,
    check_integers,
    check_positive,
    check_rates,
)


@MODELS.register_module()
class SIFAHead(BaseHead):
    """Classifies the two paths of a dual-path :class:`mmsifa.models.SIFANet`.

    Each path is averaged over its frames and positions and has its own linear classifier. The
    training loss is the sum of both paths' losses; the score is the mean of both softmaxes,
    averaged over clips and crops as ``average_clips`` says: ``'prob'`` averages probabilities (as
    released), ``'score'`` their logarithms, None keeps the logarithms of every clip.

    With ``multi_class`` a sample may have several classes. Each has a probability of its own, the
    mean of both sigmoids, and the log-odds of this take the place of the logarithms.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of both paths' features.
        loss_cls: Loss of each path. Defaults to ``dict(type='CrossEntropyLoss')``.
        dropout_ratio: Dropout before each classifier. Defaults to 0.5.
        init_std: Standard deviation of the classifiers' initial weights. Defaults to 0.01.
        **kwargs: Arguments of MMAction2's ``BaseHead``: ``topk``, ``average_clips``,
            ``label_smooth_eps``, ``multi_class``.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFAHead
        >>> head = SIFAHead(num_classes=5, in_channels=8)
        >>> logits, logits_dual = head((torch.rand(2, 8, 4, 7, 7), torch.rand(2, 8, 2, 14, 14)))
        >>> tuple(logits.shape), tuple(logits_dual.shape)
        ((2, 5), (2, 5))
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss_cls: dict = dict(type='CrossEntropyLoss'),
        dropout_ratio: float = 0.5,
        init_std: float = 0.01,
        **kwargs,
    ) -> None:
        check_integers(num_classes=num_classes, in_channels=in_channels)
        check_rates(dropout_ratio=dropout_ratio)
        check_positive(init_std=1 if init_std == 0 else init_std)
        check_configs(loss_cls=loss_cls)
        check_flags(multi_class=kwargs.get('multi_class', False))
        super().__init__(num_classes, in_channels, loss_cls, **kwargs)
        if self.average_clips not in ('prob', 'score', None):
            raise ValueError(
                f"average_clips must be 'prob', 'score' or None, got {self.average_clips!r}"
            )
        self.init_std = init_std
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc_cls = nn.Linear(in_channels, num_classes)
        self.fc_cls_dual = nn.Linear(in_channels, num_classes)

    def init_weights(self) -> None:
        """Draw the classifiers' weights from a normal distribution."""
        normal_init(self.fc_cls, std=self.init_std)
        normal_init(self.fc_cls_dual, std=self.init_std)

    def forward(self, feats: tuple[Tensor, Tensor], **kwargs) -> tuple[Tensor, Tensor]:
        """Classify both paths.

        Args:
            feats: The features of the last stage and of the dual path, each (N, C, T, H, W) with
                its own T, H and W.
            **kwargs: Ignored; recognizers pass their test settings.

        Returns:
            The logits of both paths, each (N, num_classes), in float32.

        Raises:
            ValueError: If ``feats`` is not a pair of features.
        """
        if not isinstance(feats, (tuple, list)) or len(feats) != 2:
            came = f'{len(feats)} features' if isinstance(feats, (tuple, list)) else 'one tensor'
            raise ValueError(
                'SIFAHead expects the features of two paths, as SIFANet gives them with '
                f'dual_path=True and one stage in out_indices, got {came}. For a single path use '
                "MMAction2's I3DHead"
            )
        classifiers = (self.fc_cls, self.fc_cls_dual)
        logits, logits_dual = (
            classify(self.dropout(path.mean(dim=(2, 3, 4)))).float()
            for classify, path in zip(classifiers, feats, strict=True)
        )
        return logits, logits_dual

    def loss_by_feat(self, cls_scores: tuple[Tensor, Tensor], data_samples: list) -> dict:
        """Compute the losses and accuracies of both paths; those of the dual one end in _dual."""
        losses = super().loss_by_feat(cls_scores[0], data_samples)
        dual = super().loss_by_feat(cls_scores[1], data_samples)
        return losses | {f'{name}_dual': value for name, value in dual.items()}

    def predict_by_feat(self, cls_scores: tuple[Tensor, Tensor], data_samples: list) -> list:
        """Score the samples by the mean of both paths' probabilities."""
        return super().predict_by_feat(self.join_paths(cls_scores), data_samples)

    def join_paths(self, cls_scores: tuple[Tensor, Tensor]) -> Tensor:
        """Make logits of one path, whose probabilities are the mean of both paths' probabilities.

        Args:
            cls_scores: The logits of both paths, each (N, num_classes).

        Returns:
            The logarithm of the mean, with ``multi_class`` its log-odds, (N, num_classes).
        """
        paths = torch.stack(cls_scores)
        if self.multi_class:
            yes, no = F.logsigmoid(paths), F.logsigmoid(-paths)
            return yes.logsumexp(dim=0) - no.logsumexp(dim=0)
        # The softmax of this logarithm, which average_clips='prob' takes, is the mean itself.
        return paths.log_softmax(dim=-1).logsumexp(dim=0) - math.log(2)
