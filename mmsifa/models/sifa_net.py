"""SIFA-Net: a ResNet whose bottlenecks attend to the next frame."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from mmsifa.models.bottlenecks import (
    FrameBottleneck,
    GlobalContextBottleneck,
    TemporalBottleneck,
)
from mmsifa.models.pretrained_init import check_one_source, check_pretrained
from mmsifa.models.sifa_block import SIFA, SIFAWithLayerNorm, check_sifa
from mmsifa.models.weights_2d import load_2d_weights
from mmsifa.ops.arguments import (
    check_configs,
    check_flags,
    check_integer_lists,
    check_integers,
    check_out_indices,
)


@MODELS.register_module()
class SIFANet(BaseModule):
    """SIFA-Net (Long et al., CVPR 2022, section 3.3): a 2D ResNet over tubelets, with SIFA.

    ::

        clip (N, 3, T, H, W)
          -> stem: 7x7 convolution over tubelets of 4 frames, max-pool    (N, T/4,   64, H/4,  W/4)
          -> layer1: bottlenecks                                          (N, T/4,  256, H/4,  W/4)
          -> layer2, layer3, layer4: global context, SIFA, global context, SIFA, ...
                                                                          (N, T/4, 2048, H/32, W/32)
        layer3 -> max-pool over pairs of frames -> layer4_dual (stride 1) (N, T/8, 2048, H/16, W/16)

    Every convolution is a 2D one over frames with channels last in memory. The stem's convolution
    over T is a 2D convolution as well, over the stacked channels of a tubelet's frames.

    Args:
        depth: 50 or 101. Defaults to 50.
        pretrained: Weights of a 2D ResNet of the same depth, of torchvision, timm or mmpretrain, as
            a path, a URL or ``'torchvision://resnet50'``. The stem's middle frame gets the 2D
            kernel and both fourth stages get the same weights. Defaults to None: train from
            scratch.
        in_channels: Channels of a frame. Defaults to 3.
        num_stages: Number of stages, 1 to 4. Defaults to 4.
        stage_blocks: Bottlenecks of each stage, in place of those of ``depth``. Defaults to None.
        base_channels: Width of the stem and of the first stage's bottlenecks. Defaults to 64.
        tubelet_size: Frames that the stem makes into one. Defaults to 4.
        out_indices: Stages whose features are returned, 0 to 3. Defaults to ``(3, )``.
        strides: Spatial stride of each stage. Defaults to ``(1, 2, 2, 2)``.
        stage_with_sifa: Which stages have global-context bottlenecks (even blocks) and bottlenecks
            with SIFA (odd blocks); the others have plain ones. Defaults to all but the first.
        kernel_sizes: Side of the attention window in each stage, odd. Defaults to
            ``(3, 3, 3, 3)``.
        num_heads: Attention heads. Defaults to 1.
        between_frames: What the odd blocks have between frames, a config without ``channels``:
            ``dict(type='SIFA')`` or ``'SIFAWithLayerNorm'``, which may add arguments of
            :class:`SIFA` such as ``softmax=True``; ``'TemporalConv'``, ``'TemporalShift'``,
            ``'TemporalSequential'`` for several of them, ``'torch.nn.Identity'`` for nothing, or
            any registered module that takes ``channels`` and transforms (N, T, C, H, W). Defaults
            to ``dict(type='SIFA')``.
        backend: Backend of the op, see ``mmsifa.ops.BACKENDS``. Defaults to the fastest one.
        dual_path: Whether there is a second fourth stage, at half the frame rate and twice the
            resolution; its features come last in the output. Defaults to True.
        frozen_stages: Stages whose parameters and statistics stay fixed: 0 for the stem, i for the
            stem and the first i stages, -1 for none. Defaults to -1.
        norm_cfg: Normalization layer. Defaults to ``dict(type='BN2d', requires_grad=True)``.
        act_cfg: Activation layer. Defaults to ``dict(type='ReLU', inplace=True)``.
        norm_eval: Whether batch normalization keeps its statistics in training. Defaults to False.
        with_cp: Whether blocks are computed again in the backward pass to save memory. Defaults to
            False.
        zero_init_residual: Whether the last normalization of a block starts at zero. Defaults to
            True.
        init_cfg: Initialization config. ``dict(type='Pretrained', checkpoint=...)`` loads weights
            of this backbone. Defaults to Kaiming initialization.

    Raises:
        ValueError: If an argument does not fit the others, or a weights file does not fit the
            network.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFANet
        >>> net = SIFANet(stage_blocks=(1, 2, 2, 2), base_channels=8)
        >>> for features in net(torch.rand(2, 3, 16, 64, 64)):
        ...     print(tuple(features.shape))  # (N, C, T, H, W)
        (2, 256, 4, 2, 2)
        (2, 256, 2, 4, 4)
    """

    arch_settings = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

    def __init__(
        self,
        depth: int = 50,
        pretrained: str | None = None,
        in_channels: int = 3,
        num_stages: int = 4,
        stage_blocks: Sequence[int] | None = None,
        base_channels: int = 64,
        tubelet_size: int = 4,
        out_indices: Sequence[int] = (3,),
        strides: Sequence[int] = (1, 2, 2, 2),
        stage_with_sifa: Sequence[bool] = (False, True, True, True),
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 1,
        between_frames: dict = dict(type='SIFA'),
        backend: str | None = None,
        dual_path: bool = True,
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN2d', requires_grad=True),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        norm_eval: bool = False,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        init_cfg: dict | list[dict] | None = [
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', layer='_BatchNorm', val=1),
        ],
    ) -> None:
        super().__init__(init_cfg)
        if stage_blocks is None:
            if depth not in list(self.arch_settings):
                raise ValueError(f'depth must be one of {list(self.arch_settings)}, got {depth!r}')
            stage_blocks = self.arch_settings[depth]
        self._check_stages(
            num_stages,
            frozen_stages,
            dual_path,
            out_indices,
            stage_blocks=stage_blocks,
            strides=strides,
            stage_with_sifa=stage_with_sifa,
            kernel_sizes=kernel_sizes,
        )
        check_integers(
            in_channels=in_channels, base_channels=base_channels, tubelet_size=tubelet_size
        )
        check_flags(norm_eval=norm_eval, with_cp=with_cp, zero_init_residual=zero_init_residual)
        check_configs(norm_cfg=norm_cfg, act_cfg=act_cfg, between_frames=between_frames)
        check_one_source(pretrained, init_cfg)
        self.pretrained = pretrained
        self.stage_blocks = tuple(stage_blocks[:num_stages])
        self.in_channels = in_channels
        self.tubelet_size = tubelet_size
        self.out_indices = tuple(out_indices)
        self.dual_path = dual_path
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        self.conv1 = ConvModule(
            in_channels * tubelet_size,
            base_channels,
            kernel_size=7,
            stride=2,
            padding=3,
            bias=False,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        block_cfg = dict(
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            with_cp=with_cp,
            zero_init_residual=zero_init_residual,
        )
        inplanes = base_channels
        self.stages: list[str] = []
        for i in range(num_stages):
            planes = base_channels * 2**i
            sifa_cfg: dict[str, Any] = dict(
                kernel_size=kernel_sizes[i], num_heads=num_heads, backend=backend
            )
            check_sifa(**sifa_cfg)
            if between_frames['type'] not in (SIFA, 'SIFA', SIFAWithLayerNorm, 'SIFAWithLayerNorm'):
                self._check_unused(sifa_cfg)
                sifa_cfg = {}
            stage_cfg: dict[str, Any] = dict(
                num_blocks=stage_blocks[i],
                with_context=stage_with_sifa[i],
                between_frames=sifa_cfg | dict(between_frames),
                **block_cfg,
            )
            self.stages.append(f'layer{i + 1}')
            self.add_module(self.stages[-1], _make_stage(inplanes, planes, strides[i], **stage_cfg))
            if i == 3 and dual_path:
                self.layer4_dual = _make_stage(inplanes, planes, 1, **stage_cfg)
            inplanes = planes * FrameBottleneck.expansion
        self.to(memory_format=torch.channels_last)
        self._freeze_stages()

    @staticmethod
    def _check_stages(num_stages, frozen_stages, dual_path, out_indices, **per_stage) -> None:
        check_integers(1, 4, num_stages=num_stages)
        check_integers(-1, num_stages, frozen_stages=frozen_stages)
        check_flags(dual_path=dual_path)
        if dual_path and num_stages < 4:
            raise ValueError(f'dual_path needs num_stages=4, got {num_stages}: set dual_path=False')
        check_out_indices(out_indices, num_stages)
        for name, values in per_stage.items():
            if (
                isinstance(values, str)
                or not isinstance(values, Sequence)
                or len(values) < num_stages
            ):
                raise ValueError(
                    f'{name} must have a value for each of {num_stages} stages, got {values!r}'
                )
            if name == 'stage_with_sifa':
                check_flags(**{f'{name}[{i}]': flag for i, flag in enumerate(values)})
            else:
                check_integer_lists(**{name: values})

    @staticmethod
    def _check_unused(sifa_cfg: dict) -> None:
        """Refuse arguments of SIFA where there is none."""
        defaults = signature(SIFA).parameters
        unused = [name for name, value in sifa_cfg.items() if value != defaults[name].default]
        if unused:
            raise ValueError(
                f'between_frames takes the place of SIFA, so {unused} would be ignored: leave them '
                'out, or put them into between_frames if it takes them'
            )

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the names of weights start with that a larger network has and this one has not."""
        stages = [f'layer{i}.' for i in range(len(self.stages) + 1, 5)]
        dual = [] if self.dual_path else ['layer4_dual.']
        blocks = [name for name, m in self.named_modules() if isinstance(m, FrameBottleneck)]
        contexts = [f'{name}.{fc}.' for name in blocks for fc in GlobalContextBottleneck.own_parts]
        return (*stages, *dual, *contexts)

    def init_weights(self) -> None:
        """Initialize from scratch, then from ``init_cfg`` or ``pretrained`` weights."""
        check_pretrained(self)
        super().init_weights()
        if self.pretrained:
            load_2d_weights(self, self.pretrained)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Clips (N, C, T, H, W); ``tubelet_size`` divides T.

        Returns:
            The features (N, C', T', H', W') of the stages in ``out_indices``, then those of the
            dual path; a single tensor if there is only one.

        Raises:
            ValueError: If ``x`` has another number of dimensions, channels or frames.
        """
        clips = x.shape[0], x.shape[2] // self.tubelet_size
        frames = self.maxpool(self.conv1(self._stack_tubelets(x)))
        x = frames.unflatten(0, clips).transpose(1, 2)
        outs = []
        for i, stage in enumerate(self.stages):
            before, x = x, getattr(self, stage)(x)
            if i in self.out_indices:
                outs.append(x)
        if self.dual_path:
            # An odd last frame is kept, so that a clip of one tubelet has a dual path too.
            # In 2D, whose compilers keep channels last in memory.
            slow = F.max_pool2d(before.flatten(3), (2, 1), ceil_mode=True)
            slow = slow.unflatten(3, before.shape[3:])
            outs.append(self.layer4_dual(slow))
        return outs[0] if len(outs) == 1 else tuple(outs)

    def _stack_tubelets(self, x: Tensor) -> Tensor:
        """Stack the frames of a tubelet as channels: (N*T/4, 4*C, H, W), channels last."""
        size = self.tubelet_size
        if x.dim() != 5 or x.shape[1] != self.in_channels or x.shape[2] % size or not x.shape[2]:
            raise ValueError(
                f'SIFANet expects clips of shape (N, {self.in_channels}, T, H, W) with T a '
                f'multiple of {size} frames, got {tuple(x.shape)}'
            )
        tubelets = x.unflatten(2, (-1, size)).permute(0, 2, 4, 5, 1, 3)  # (N, T/4, H, W, C, 4)
        return tubelets.flatten(4, 5).flatten(0, 1).permute(0, 3, 1, 2)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.conv1, *(getattr(self, s) for s in self.stages[: self.frozen_stages])]
        if self.frozen_stages == 4 and self.dual_path:
            frozen.append(self.layer4_dual)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'SIFANet':
        """Set the mode; frozen stages, and all statistics with ``norm_eval``, stay fixed."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def _make_stage(
    inplanes: int,
    planes: int,
    stride: int,
    *,
    num_blocks: int,
    with_context: bool,
    between_frames: dict,
    **block_cfg,
) -> Sequential:
    outplanes = planes * FrameBottleneck.expansion
    blocks = Sequential()
    for i in range(num_blocks):
        kwargs = dict(block_cfg)
        if i == 0:
            kwargs['stride'] = stride
            if stride != 1 or inplanes != outplanes:
                kwargs['downsample'] = ConvModule(
                    inplanes,
                    outplanes,
                    kernel_size=1,
                    stride=stride,
                    bias=False,
                    norm_cfg=block_cfg['norm_cfg'],
                    act_cfg=None,
                )
        block: type[FrameBottleneck] = FrameBottleneck
        if with_context and i % 2:
            block, kwargs['between_frames'] = TemporalBottleneck, between_frames
        elif with_context:
            block = GlobalContextBottleneck
        blocks.append(block(inplanes if i == 0 else outplanes, planes, **kwargs))
    return blocks
