"""What blocks may do between frames besides SIFA: (N, T, C, H, W) features in and out."""

from collections.abc import Sequence

from mmaction.models.backbones import resnet_tsm
from mmaction.registry import MODELS
from mmengine.model import BaseModule, Sequential, constant_init
from torch import Tensor, nn

from mmsifa.models.sifa_block import SIFA, SIFAWithLayerNorm
from mmsifa.ops.arguments import check_configs, check_integers

for block in (SIFA, SIFAWithLayerNorm):  # which need no MMAction2 themselves
    MODELS.register_module(module=block)


@MODELS.register_module()
class TemporalConv(BaseModule):
    r"""A convolution over three frames, added: :math:`x + \mathrm{conv}(x)`, as in P3D.

    The convolution over time is a 2D one, whose second axis is all positions of a frame. It starts
    at zero, so that a fresh one leaves its input as it is.

    Args:
        channels: Channels C of the features.

    Example:
        >>> import torch
        >>> from mmsifa.models import TemporalConv
        >>> x = torch.rand(2, 4, 16, 14, 14)  # (N, T, C, H, W)
        >>> torch.equal(TemporalConv(channels=16)(x), x)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_integers(channels=channels)
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False)
        constant_init(self.conv, 0)

    def init_weights(self) -> None:
        """Start at zero."""
        super().init_weights()
        constant_init(self.conv, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (N, T, C, H, W); best with channels last in memory."""
        frames = x.flatten(3).transpose(1, 2)  # (N, C, T, H*W)
        return x + self.conv(frames).transpose(1, 2).unflatten(3, x.shape[3:])


@MODELS.register_module()
class TemporalShift(nn.Module):
    """MMAction2's temporal shift (Lin et al., TSM, ICCV 2019).

    Some channels of a frame are replaced by those of the next frame and as many by those of the
    frame before, with zeros beyond the ends of a clip. There is no parameter.

    Args:
        channels: Channels C of the features.
        shift_div: One out of so many channels comes from the next frame and one from the frame
            before. Defaults to 8.

    Raises:
        ValueError: If there are fewer channels than ``shift_div``, so that none would move, or one
            is no positive integer.

    Example:
        >>> import torch
        >>> from mmsifa.models import TemporalShift
        >>> x = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 8, 2, 2)  # (N, T, C, H, W)
        >>> TemporalShift(channels=8)(x)[0, :, :3, 0, 0].tolist()  # next, before, own
        [[1.0, 0.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 2.0]]
    """

    def __init__(self, channels: int, shift_div: int = 8) -> None:
        super().__init__()
        check_integers(channels=channels, shift_div=shift_div)
        if channels < shift_div:
            raise ValueError(
                f'shift_div must be at most the number of channels, {channels}, got {shift_div}'
            )
        self.shift_div = shift_div

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (N, T, C, H, W); the result has channels last in memory."""
        n, t, c, h, w = x.shape
        frames = x.reshape(n * t, c, h, w)
        frames = resnet_tsm.TemporalShift.shift(frames, t, self.shift_div)
        return frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).view(n, t, c, h, w)


@MODELS.register_module()
class TemporalSequential(Sequential):
    """Parts between frames, one after another, such as attention and a convolution.

    Args:
        channels: Channels C of the features.
        parts: The parts' configs, without ``channels``.

    Raises:
        ValueError: If a part is no config, or ``channels`` no positive integer.

    Example:
        >>> import torch
        >>> from mmsifa.models import TemporalSequential
        >>> parts = [dict(type='SIFA', bidirectional=True), dict(type='TemporalConv')]
        >>> part = TemporalSequential(channels=16, parts=parts)
        >>> part(torch.rand(2, 4, 16, 14, 14)).shape  # (N, T, C, H, W)
        torch.Size([2, 4, 16, 14, 14])
    """

    def __init__(self, channels: int, parts: Sequence[dict]) -> None:
        check_integers(channels=channels)
        check_configs(**{f'parts[{i}]': part for i, part in enumerate(parts)})
        super().__init__(*(MODELS.build(dict(part, channels=channels)) for part in parts))
