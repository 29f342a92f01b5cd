"""SIFA-Transformer: a per-frame Swin whose blocks attend to the next frame."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmaction.models.backbones.swin import (
    SwinTransformer3D,
    SwinTransformerBlock3D,
    WindowAttention3D,
)
from mmaction.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmsifa.models.pretrained_init import check_one_source, check_pretrained
from mmsifa.models.sifa_block import SIFAWithLayerNorm, check_sifa
from mmsifa.models.temporal_parts import TemporalConv
from mmsifa.models.weights_2d import load_2d_swin_weights
from mmsifa.ops.arguments import (
    check_configs,
    check_flags,
    check_integer_lists,
    check_integers,
    check_out_indices,
    check_positive,
    check_rates,
    is_positive_integer,
)


class WindowAttention(WindowAttention3D):
    """MMAction2's window attention, by PyTorch's fused operator where no gradient is recorded.

    The fused operator takes no part in training: with a position table that learns, PyTorch
    computes the same sums unfused on CPUs.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x: Tokens (windows, L, C) of all clips' windows.
            mask: What is added to the scores of a clip's windows, (windows of a clip, L, L).
                Defaults to None.

        Returns:
            Tokens of the same shape.
        """
        if torch.is_grad_enabled():
            return super().forward(x, None if mask is None else mask.to(x.dtype))
        windows, length, _ = x.shape
        query, key, value = (
            self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        )
        index = self.relative_position_index[:length, :length]
        bias = self.relative_position_bias_table[index.flatten()].unflatten(0, index.shape)
        bias = bias.permute(2, 0, 1)[None]  # (1, heads, L, L)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(windows // len(mask), 1, 1, 1)
        dropout = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(
            query, key, value, bias.to(query.dtype), dropout, scale=self.scale
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class SIFATransformerBlock(SwinTransformerBlock3D):
    """MMAction2's Swin block with a temporal part between its attention and its MLP.

    Args:
        temporal: The temporal part, (N, T, C, H, W) in and out.
        **kwargs: Arguments of MMAction2's ``SwinTransformerBlock3D``.
    """

    own_parts = ('temporal',)  # which files of a 2D trunk lack

    def __init__(self, temporal: nn.Module, **kwargs) -> None:
        super().__init__(**kwargs)
        self.attn = WindowAttention(
            kwargs['embed_dims'],
            kwargs['window_size'],
            kwargs['num_heads'],
            kwargs['qkv_bias'],
            kwargs['qk_scale'],
            kwargs['attn_drop'],
            kwargs['drop'],
        )
        self.temporal = temporal

    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        """Apply the block, recomputed in the backward pass if ``with_cp``."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mask_matrix, use_reentrant=False)
        return self._forward(x, mask_matrix)

    def _forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        x = x + self.drop_path(self.forward_part1(x, mask_matrix))
        x = self.temporal(x.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        return x + self.forward_part2(x)


@MODELS.register_module()
class SIFATransformer(SwinTransformer3D):
    """SIFA-Transformer (Long et al., CVPR 2022, section 3.3): a per-frame Swin, with SIFA.

    ::

        clip (N, 3, T, H, W)
          -> patch_embed: convolution over tubelets of 4 frames, norm      (N, T/4,  C, H/4,  W/4)
          -> layers: window attention, temporal part, MLP; patch merging   (N, T/4, 8C, H/32, W/32)

    The temporal part of a block whose window is not shifted is inter-frame attention
    (:class:`SIFAWithLayerNorm`), that of a shifted block a convolution over time
    (:class:`TemporalConv`), unless ``temporal_parts`` says otherwise. Both start at zero: on 2D
    weights a fresh network computes the features of that Swin on the mean of each tubelet's frames.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'`` (or their first letters), or a dict
            with ``embed_dims``, ``depths`` and ``num_heads``.
        pretrained: A checkpoint's path or URL. Defaults to None: train from scratch.
        pretrained2d: Whether ``pretrained`` holds a 2D Swin, with its official names or those of
            torchvision, timm (0.9 or later) or mmpretrain; if False it holds weights of this
            backbone. Defaults to True.
        patch_size: Frames, height and width of a tubelet. Defaults to ``(4, 4, 4)``.
        window_size: Frames, height and width of the attention window. Defaults to ``(1, 7, 7)``.
        img_size: Side of the training frames in pixels. Stages whose map it makes no larger than
            the window have no shifted blocks, whatever the size of the frames that are fed: what
            a block does between frames goes with its windows. Defaults to 224.
        qkv_bias: Whether queries, keys and values have a bias. Defaults to True.
        qk_scale: Scale of the scores. Defaults to that of the heads' channels.
        mlp_ratio: Width of the MLP over that of the block. Defaults to 4.
        drop_rate: Dropout. Defaults to 0.
        attn_drop_rate: Dropout of attention weights. Defaults to 0.
        drop_path_rate: Stochastic depth of the last block; it grows from 0. Defaults to 0.1.
        act_cfg: Activation layer. Defaults to ``dict(type='GELU')``.
        norm_cfg: Normalization layer. Defaults to ``dict(type='LN')``.
        patch_norm: Whether the embedding is normalized; the released code does not. Defaults to
            True.
        kernel_size: Side of the inter-frame window, odd. Defaults to 3.
        num_sifa_heads: Heads of the inter-frame attention. Defaults to 1.
        softmax: Whether its weights go through a softmax. Defaults to False.
        deformable: Whether its offsets are predicted; if False they are zero, as in the released
            code. Defaults to True.
        motion_rescaling: Whether its offsets are predicted from the motion saliency map; if False
            from the next frame's features. Defaults to True.
        tap_embedding: Whether it has a learned vector for each tap. Defaults to False.
        bidirectional: Whether half of the channels look at the next frame and half at the one
            before. Defaults to False: all look at the next.
        temporal_parts: The temporal part of blocks whose window is not shifted and of shifted
            blocks, each ``'attention'``, ``'convolution'`` or None for none. Defaults to
            ``('attention', 'convolution')``.
        backend: Backend of the op, see ``mmsifa.ops.BACKENDS``. Defaults to the fastest one.
        fuse: Whether the arithmetic around the op is fused, as in :class:`SIFA`. Defaults to False.
        with_cp: Whether blocks are computed again in the backward pass to save memory. Defaults to
            False.
        **kwargs: Arguments of MMAction2's ``SwinTransformer3D``: ``in_channels``, ``out_indices``,
            ``out_after_downsample``, ``frozen_stages``, ``init_cfg``.

    Raises:
        ValueError: If an argument does not fit the others, or a weights file does not fit the
            network.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFATransformer
        >>> arch = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
        >>> net = SIFATransformer(arch)
        >>> net(torch.rand(2, 3, 8, 64, 80)).shape  # (N, C, T, H, W)
        torch.Size([2, 128, 2, 2, 3])
    """

    def __init__(
        self,
        arch: str | dict,
        pretrained: str | None = None,
        pretrained2d: bool = True,
        patch_size: Sequence[int] = (4, 4, 4),
        window_size: Sequence[int] = (1, 7, 7),
        img_size: int = 224,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        patch_norm: bool = True,
        kernel_size: int = 3,
        num_sifa_heads: int = 1,
        softmax: bool = False,
        deformable: bool = True,
        motion_rescaling: bool = True,
        tap_embedding: bool = False,
        bidirectional: bool = False,
        temporal_parts: tuple[str | None, str | None] = ('attention', 'convolution'),
        backend: str | None = None,
        fuse: bool = False,
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        arch = self._check_arch(arch, **kwargs)
        kinds = ('attention', 'convolution', None)
        if (
            not isinstance(temporal_parts, Sequence)
            or len(temporal_parts) != 2
            or not all(part in kinds for part in temporal_parts)
        ):
            raise ValueError(
                "temporal_parts must be two of 'attention', 'convolution' and None, got "
                f'{temporal_parts!r}'
            )
        check_integer_lists(3, patch_size=patch_size, window_size=window_size)
        check_integers(img_size=img_size)
        check_flags(
            pretrained2d=pretrained2d, qkv_bias=qkv_bias, patch_norm=patch_norm, with_cp=with_cp
        )
        check_rates(
            drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate
        )
        check_positive(mlp_ratio=mlp_ratio, qk_scale=1 if qk_scale is None else qk_scale)
        check_configs(act_cfg=act_cfg, norm_cfg=norm_cfg)
        check_one_source(pretrained, kwargs.get('init_cfg'))
        # The inherited constructor makes stages without blocks; the blocks are ours.
        super().__init__(
            arch | dict(depths=[0] * len(arch['depths'])),
            pretrained=pretrained,
            pretrained2d=pretrained2d,
            patch_size=tuple(patch_size),
            window_size=tuple(window_size),
            drop_rate=drop_rate,
            norm_cfg=norm_cfg,
            patch_norm=patch_norm,
            **kwargs,
        )
        self.arch_settings, self.depths = arch, arch['depths']
        block_cfg: dict[str, Any] = dict(
            window_size=self.window_size,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
            act_cfg=act_cfg,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
        )
        sifa_cfg: dict[str, Any] = dict(
            kernel_size=kernel_size,
            num_heads=num_sifa_heads,
            softmax=softmax,
            deformable=deformable,
            motion_rescaling=motion_rescaling,
            tap_embedding=tap_embedding,
            bidirectional=bidirectional,
            backend=backend,
            fuse=fuse,
        )
        check_sifa(**sifa_cfg)
        drop_paths = iter(
            torch.linspace(0, drop_path_rate, sum(self.depths), device='cpu').tolist()
        )
        for i, layer in enumerate(self.layers):
            channels = layer.embed_dims
            side = -(-img_size // (self.patch_size[1] * 2**i))
            ever_shifted = side > min(self.window_size[1:])
            for j in range(self.depths[i]):
                shifted = ever_shifted and j % 2 == 1
                layer.blocks.append(
                    SIFATransformerBlock(
                        _temporal_part(temporal_parts[shifted], channels, sifa_cfg),
                        embed_dims=channels,
                        num_heads=self.num_heads[i],
                        shift_size=layer.shift_size if shifted else (0, 0, 0),
                        drop_path=next(drop_paths),
                        **block_cfg,
                    )
                )
        self._freeze_stages()

    @classmethod
    def _check_arch(
        cls,
        name_or_arch: str | dict,
        out_indices: Sequence[int] = (3,),
        frozen_stages: int = -1,
        in_channels: int = 3,
        out_after_downsample: bool = False,
        **kwargs,
    ) -> dict:
        if isinstance(name_or_arch, dict):
            arch = dict(name_or_arch)
        elif isinstance(name_or_arch, str) and name_or_arch.lower() in cls.arch_zoo:
            arch = dict(cls.arch_zoo[name_or_arch.lower()])
        else:
            raise ValueError(
                f'arch must be one of {sorted(cls.arch_zoo)} or a dict, got {name_or_arch!r}'
            )
        keys = {'embed_dims', 'depths', 'num_heads'}
        if set(arch) != keys:
            raise ValueError(f'arch must have the keys {sorted(keys)}, got {sorted(arch)}')
        check_integers(in_channels=in_channels, **{"arch's embed_dims": arch['embed_dims']})
        check_flags(out_after_downsample=out_after_downsample)
        check_integer_lists(**{"arch's depths": arch['depths']})
        stages = len(arch['depths'])
        heads = arch['num_heads']
        if not 1 <= stages <= 4 or not isinstance(heads, Sequence) or len(heads) != stages:
            raise ValueError(
                'arch must have 1 to 4 depths and as many num_heads, got '
                f'{arch["depths"]} and {arch["num_heads"]}'
            )
        channels = [arch['embed_dims'] * 2**i for i in range(stages)]
        if not all(map(is_positive_integer, heads)) or any(
            c % h for c, h in zip(channels, heads, strict=True)
        ):
            raise ValueError(
                f"num_heads of arch must divide the stages' channels {channels}, got "
                f'{arch["num_heads"]}'
            )
        check_out_indices(out_indices, stages)
        check_integers(-1, stages, frozen_stages=frozen_stages)
        return arch

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the names of weights start with that a larger network has and this one has not."""
        stages, last = (f'layers.{i}.' for i in range(self.num_layers, 4)), self.num_layers - 1
        norms = (f'norm{i}.' for i in range(4) if i not in self.out_indices)
        return (*stages, *(() if last == 3 else (f'layers.{last}.downsample.',)), *norms)

    def init_weights(self) -> None:
        """Initialize from scratch, then from ``init_cfg`` or ``pretrained`` weights."""
        if self.pretrained and not self.pretrained2d:
            self.init_cfg = dict(type='Pretrained', checkpoint=self.pretrained)
        check_pretrained(self)
        BaseModule.init_weights(self)
        if self.pretrained and self.pretrained2d:
            load_2d_swin_weights(self, self.pretrained)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Clips (N, C, T, H, W); the tubelets' 4 frames divide T. Frames are padded at the
                right and at the bottom where tubelets or windows do not divide them.

        Returns:
            The features (N, C', T', H', W') of the stages in ``out_indices``; a single tensor if
            there is only one.

        Raises:
            ValueError: If ``x`` has another number of dimensions, channels or frames.
        """
        tubelet, channels = self.patch_size[0], self.patch_embed.in_channels
        if x.dim() != 5 or x.shape[1] != channels or x.shape[2] % tubelet or not x.shape[2]:
            raise ValueError(
                f'SIFATransformer expects clips of shape (N, {channels}, T, H, W) with T a '
                f'multiple of {tubelet} frames, got {tuple(x.shape)}'
            )
        x = self.pos_drop(self.patch_embed(x))
        x = x.permute(0, 2, 3, 4, 1).contiguous()  # (N, T, H, W, C), and stays so
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x.permute(0, 4, 1, 2, 3), do_downsample=self.out_after_downsample)
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).permute(0, 4, 1, 2, 3))
            if layer.downsample is not None and not self.out_after_downsample:
                x = layer.downsample(x)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def train(self, mode: bool = True) -> 'SIFATransformer':
        """Set the mode; frozen stages stay fixed."""
        super().train(mode)
        return self


def _temporal_part(name: str | None, channels: int, sifa_cfg: dict) -> nn.Module:
    if name == 'attention':
        return SIFAWithLayerNorm(channels, **sifa_cfg)
    return TemporalConv(channels) if name == 'convolution' else nn.Identity()
