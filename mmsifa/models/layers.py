"""The SIFA block: what moved, where to look, and the op; alone and normalized."""

import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmengine.model import BaseModule, constant_init
from torch import Tensor, nn

from mmsifa.ops import inter_frame_attention


@MODELS.register_module()
class SIFA(BaseModule):
    r"""Stand-alone inter-frame attention (Long et al., CVPR 2022, section 3.2).

    For frames :math:`x_0 \ldots x_{T-1}` of features and :math:`t < T - 1`::

        x_t      --+------------------------- query --+
                   v                                  v
                saliency --> conv_offset --> offset --> inter_frame_attention --> (+ x_t) --> y_t
                   ^                                  ^
        x_{t+1}  --+------------------------- value --+

    The last frame has no next frame: :math:`y_{T-1} = x_{T-1}`. The offset predictor starts at
    zero, so a fresh block looks at the undeformed K x K neighbours.

    Args:
        channels: Channels C of the features.
        kernel_size: Side K of the window, odd. Defaults to 3.
        dilation: Distance of neighbouring taps in pixels. Defaults to 1.
        num_heads: Number of attention heads. Defaults to 1.
        softmax: Whether attention weights go through a softmax over the taps. Defaults to False,
            as in the paper.
        deformable: Whether offsets are predicted. If False they are zero and the block has no
            parameter. Defaults to True.
        residual: Whether the input is added. If False the block returns what was attended, with
            zeros for the last frame. Defaults to True.
        backend: Backend of the op, see ``mmsifa.ops.BACKENDS``. Defaults to the fastest one.
        init_cfg: Initialization config. Defaults to zeros for the offset predictor.

    Raises:
        ValueError: If the window has no centre or the heads do not divide the channels.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFA
        >>> block = SIFA(channels=16)
        >>> block(torch.rand(2, 4, 16, 14, 14)).shape  # (N, T, C, H, W), any T, H and W
        torch.Size([2, 4, 16, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        num_heads: int = 1,
        softmax: bool = False,
        deformable: bool = True,
        residual: bool = True,
        backend: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')
        if channels % num_heads:
            raise ValueError(f'num_heads must divide {channels} channels, got {num_heads}')
        self.channels = channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.num_heads = num_heads
        self.softmax = softmax
        self.deformable = deformable
        self.residual = residual
        self.backend = backend
        if deformable:
            self.conv_offset = nn.Conv2d(channels, 2 * kernel_size**2, 3, padding=1, bias=False)
            nn.init.zeros_(self.conv_offset.weight)

    def init_weights(self) -> None:
        """Set the offset predictor to zero, unless ``init_cfg`` says otherwise."""
        if self.deformable:
            nn.init.zeros_(self.conv_offset.weight)
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Add to every frame but the last what it finds in the next one, or return that alone.

        Args:
            x: Features (N, T, C, H, W); best with channels last in memory.

        Returns:
            Features of the same shape.

        Raises:
            ValueError: If ``x`` does not have 5 dimensions and ``channels`` channels.
        """
        if x.dim() != 5 or x.shape[2] != self.channels:
            raise ValueError(
                f'SIFA expects (N, T, {self.channels}, H, W) features, got {tuple(x.shape)}'
            )
        now, following = x[:, :-1], x[:, 1:]
        attended = inter_frame_attention(
            now,
            following,
            self.predict_offset(now, following),
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            num_heads=self.num_heads,
            softmax=self.softmax,
            backend=self.backend,
        )
        # Joined with channels last in memory, so that the next layer needs no copy.
        if not self.residual:
            attended = attended.permute(0, 1, 3, 4, 2)
            return F.pad(attended, (0, 0, 0, 0, 0, 0, 0, 1)).permute(0, 1, 4, 2, 3)
        frames = [f.permute(0, 1, 3, 4, 2) for f in (now + attended, x[:, -1:])]
        return torch.cat(frames, dim=1).permute(0, 1, 4, 2, 3)

    def predict_offset(self, now: Tensor, following: Tensor) -> Tensor:
        """Predict where to look from the motion saliency map.

        Args:
            now: Frames t, (N, T, C, H, W).
            following: Frames t + 1, of the same shape.

        Returns:
            Offsets (N, T, 2*K*K, H, W) in pixels, of the dtype of ``now``.
        """
        n, t, _, h, w = now.shape
        if not self.deformable:
            return now.new_zeros(1).expand(n, t, 2 * self.kernel_size**2, h, w)
        saliency = self.motion_saliency(now, following)
        offset = self.conv_offset(saliency.flatten(0, 1))
        return offset.unflatten(0, (n, t)).to(now.dtype)  # autocast may have narrowed it

    @staticmethod
    def motion_saliency(now: Tensor, following: Tensor) -> Tensor:
        r"""Weigh the features of the next frame by how they changed.

        .. math:: m_{t+1} = x_{t+1} \cdot (1 + \sigma(x_{t+1} - x_t))

        Args:
            now: Frames t, (N, T, C, H, W).
            following: Frames t + 1, of the same shape.

        Returns:
            The motion saliency maps of frames t + 1, of the same shape.
        """
        return following * (1 + torch.sigmoid(following - now))


class TemporalAttention(BaseModule):
    r"""Inter-frame attention, normalized and added: :math:`x + \mathrm{LN}(z)`.

    Here :math:`z_t` is the inter-frame attention of frame t to t + 1 and zero for the last frame.
    The normalization starts with zeros, so that a fresh block leaves its input as it is.
    """

    def __init__(self, channels: int, **sifa_cfg) -> None:
        super().__init__()
        self.sifa = SIFA(channels, residual=False, **sifa_cfg)
        self.norm = nn.LayerNorm(channels)
        constant_init(self.norm, 0)

    def init_weights(self) -> None:
        """Start at zero."""
        super().init_weights()
        constant_init(self.norm, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (N, T, H, W, C)."""
        attended = self.sifa(x.permute(0, 1, 4, 2, 3))  # (N, T, C, H, W)
        return x + self.norm(attended.permute(0, 1, 3, 4, 2))
