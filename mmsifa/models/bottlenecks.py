"""SIFA-Net's bottlenecks: plain ones, with a part between frames, with a clip's summary."""

import torch
import torch.nn.functional as F
from mmaction.models.backbones.resnet import Bottleneck
from mmaction.registry import MODELS
from mmcv.cnn.bricks.plugin import infer_abbr
from mmengine.model import constant_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class FrameBottleneck(Bottleneck):
    """MMAction2's bottleneck on the frames of clips, (N, C, T, H, W) in and out.

    Subclasses add what the frames of a clip have to do with each other, at one of two places.
    """

    def __init__(
        self, inplanes: int, planes: int, *, zero_init_residual: bool = True, **kwargs
    ) -> None:
        super().__init__(inplanes, planes, **kwargs)
        self.zero_init_residual = zero_init_residual

    def init_weights(self) -> None:
        """Start the residual branch at zero, if so asked for."""
        if self.zero_init_residual:
            constant_init(self.conv3.norm, 0)

    def between_frames(self, x: Tensor) -> Tensor:
        """Transform the features (N, T, C, H, W) between the 3x3 and the last 1x1 convolution."""
        return x

    def context(self, x: Tensor) -> Tensor | None:
        """Return what is added to the residual branch's output ``x``, (N, T, C, H, W), if any."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, recomputed in the backward pass if ``with_cp``."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)  # frame by frame, without a copy where channels are last in memory
        clips = x.shape[:2]
        frames = x.flatten(0, 1)
        out = self.conv2(self.conv1(frames)).unflatten(0, clips)
        out = self.conv3(self.between_frames(out).flatten(0, 1)).unflatten(0, clips)
        identity = x if self.downsample is None else self.downsample(frames).unflatten(0, clips)
        context = self.context(out)
        out = out + identity
        if context is not None:
            out = out + context
        return self.relu(out).transpose(1, 2)


class TemporalBottleneck(FrameBottleneck):
    """Bottleneck with a module between frames after its 3x3 convolution.

    The module is named after its class, in snake case: ``sifa``, ``temporal_conv``.
    """

    def __init__(self, inplanes: int, planes: int, *, between_frames: dict, **kwargs) -> None:
        super().__init__(inplanes, planes, **kwargs)
        part = MODELS.build(dict(between_frames, channels=planes))
        self.part_name = infer_abbr(type(part))
        self.add_module(self.part_name, part)
        self.own_parts = (self.part_name,)  # which files of a 2D trunk lack

    def init_weights(self) -> None:
        """Start the residual branch at zero, and the module as it does by itself."""
        super().init_weights()
        part = getattr(self, self.part_name)
        if hasattr(part, 'init_weights'):
            part.init_weights()

    def between_frames(self, x: Tensor) -> Tensor:
        """Apply the module."""
        return getattr(self, self.part_name)(x)


class GlobalContextBottleneck(FrameBottleneck):
    r"""Bottleneck that adds a summary of the whole clip to every position.

    .. math:: g = W_2 \, \mathrm{relu}(W_1 \, \mathrm{mean}_{T,H,W}(x)), \quad C \to C/16 \to C

    The second layer starts at zero, so that a fresh block leaves pretrained features as they are.
    """

    own_parts = ('fc1', 'fc2')

    def __init__(self, inplanes: int, planes: int, **kwargs) -> None:
        super().__init__(inplanes, planes, **kwargs)
        channels = planes * self.expansion
        self.fc1 = nn.Linear(channels, channels // 16)
        self.fc2 = nn.Linear(channels // 16, channels)
        constant_init(self.fc2, 0)

    def init_weights(self) -> None:
        """Start the residual branch and the context at zero."""
        super().init_weights()
        constant_init(self.fc2, 0)

    def context(self, x: Tensor) -> Tensor:
        """Summarize the clip, (N, T, C, H, W) to (N, 1, C, 1, 1)."""
        context = self.fc2(F.relu(self.fc1(x.mean(dim=(1, 3, 4)))))
        return context[:, None, :, None, None]
