"""A head that knows the order of a clip's frames."""

from mmaction.models.heads import TRNHead
from mmaction.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ClipTRNHead(TRNHead):
    """MMAction2's temporal relation head (Zhou et al., TRN, ECCV 2018) on features of clips.

    Each frame is averaged over its positions and narrowed by a linear layer; two more see all
    frames in their order.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the features.
        num_segments: Their frames T.
        **kwargs: Arguments of ``TRNHead``.

    Example:
        >>> import torch
        >>> head = ClipTRNHead(num_classes=5, in_channels=8, num_segments=4)
        >>> tuple(head(torch.rand(2, 8, 4, 7, 7)).shape)  # features (N, C, T, H, W)
        (2, 5)
    """

    def __init__(self, num_classes: int, in_channels: int, num_segments: int, **kwargs) -> None:
        super().__init__(
            num_classes, in_channels, num_segments=num_segments, relation_type='TRN', **kwargs
        )

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        """Score features.

        Args:
            x: Features (N, C, T, H, W).
            **kwargs: Not used.

        Returns:
            Scores (N, num_classes).

        Raises:
            ValueError: If they have another number of frames than ``num_segments``.
        """
        if x.shape[2] != self.num_segments:
            raise ValueError(
                f'ClipTRNHead expects features of num_segments={self.num_segments} frames, got '
                f'{x.shape[2]}'
            )
        return super().forward(x.transpose(1, 2).flatten(0, 1), num_segs=self.num_segments)
