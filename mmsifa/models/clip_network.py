"""SIFA inside any 2D network: blocks after the submodules that their names pick out."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmsifa.models.feature_layout import FeatureLayout, TrialRun
from mmsifa.models.sifa_block import SIFA, SIFAWithLayerNorm
from mmsifa.ops.arguments import check_flags, check_integers


def add_sifa(
    network: nn.Module,
    after: Sequence[str],
    clip_len: int | None = None,
    zero_init: bool = True,
    num_prefix_tokens: int = 0,
    in_channels: int = 3,
    img_size: int | tuple[int, int] = (224, 256),
    **sifa_cfg: Any,
) -> 'ClipNetwork':
    """Let the frames of clips attend to the next frame within a 2D network.

    ::

        clips (N, 3, T, H, W) -> frames (N*T, 3, H, W) -> network -> its own output for N*T frames
                                                             |
                     submodule's output -> SIFA over the T frames of each clip -> next submodule

    The network keeps its code and the names of its weights. A trial run on a few frames finds out
    which submodules return feature maps, and of how many channels: (N*T, C, H, W), (N*T, H, W, C)
    or tokens (N*T, L, C), alone or as the first of several outputs. Maps have the frames' shape;
    either side may lack up to 4 positions for want of padding.

    The blocks act in a call of what is returned, and in the backward pass from its output, which
    may compute parts again (activation checkpointing). The network that was given, called directly,
    still computes what it did. Threads may share the result.

    Args:
        network: A network of images (N, C, H, W), such as torchvision's, timm's or transformers'.
        after: Names of the submodules that a SIFA block follows, as the network's
            ``named_modules()`` gives them. ``*`` stands for one part of a name: ``'layer3.*'``.
        clip_len: Frames T of a clip where frames (N*T, 3, H, W) come without it. Defaults to None:
            only clips are taken.
        zero_init: Whether what was attended is normalized by weights that start at zero, as in
            SIFA-Transformer, so that pretrained features arrive unchanged. False adds it as it is,
            as in SIFA-Net. Defaults to True.
        num_prefix_tokens: Tokens before those of the image, such as a class token. Defaults to 0.
        in_channels: Channels of a frame. Defaults to 3.
        img_size: Height and width of the trial run's frames in pixels. Different sides tell a map's
            rows and columns from its channels. Defaults to ``(224, 256)``.
        **sifa_cfg: Arguments of :class:`SIFA`: ``kernel_size``, ``dilation``, ``num_heads``,
            ``softmax``, ``deformable``, ``motion_rescaling``, ``tap_embedding``,
            ``bidirectional``, ``backend``, ``fuse``.

    Returns:
        A module that takes clips. Its ``backbone`` is the network, its ``temporal`` the blocks.

    Raises:
        ValueError: If a name matches nothing, or a submodule returns no feature map or is called
            several times for a frame, or if the trial run fails.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmsifa.models import add_sifa
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4), nn.AdaptiveAvgPool2d(1))
        >>> add_sifa(network, after=['0'])(torch.rand(2, 3, 5, 64, 64)).shape  # 2 clips, 5 frames
        torch.Size([10, 8, 1, 1])
    """
    if clip_len is not None:
        check_integers(clip_len=clip_len)
    check_flags(zero_init=zero_init)

    def block(channels: int) -> nn.Module:
        if zero_init:
            return SIFAWithLayerNorm(channels, **sifa_cfg)
        return SIFA(channels, residual=True, **sifa_cfg)

    trial = TrialRun(network, clip_len or 2, in_channels, img_size, num_prefix_tokens)
    clips, temporal = parts_after(network, after, trial, block)
    return ClipNetwork(network, clips, temporal, in_channels, clip_len)


class ClipShape(NamedTuple):
    """The clips that are being computed: frames of each, and the frames' height and width."""

    length: int
    img_size: tuple[int, int]


class ClipsInProgress:
    """The clips that a network is computing, for each thread its own, and none in between."""

    def __init__(self) -> None:
        self._here = threading.local()

    def __reduce__(self) -> tuple:
        return ClipsInProgress, ()  # a copy computes nothing yet

    def run(self, network: nn.Module, frames: Tensor, shape: ClipShape) -> Any:
        """Call a network whose blocks are to know the clips of its frames (N*T, C, H, W)."""
        before = getattr(self._here, 'forward', None)
        self._here.forward = shape
        try:
            output = network(frames)
        finally:
            self._here.forward = before
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for out in tree_leaves(output):
                if isinstance(out, Tensor) and out.requires_grad:
                    # Say it again in the backward pass, which may compute blocks again.
                    out.register_hook(partial(self._begin_backward, shape))
        return output

    def _begin_backward(self, shape: ClipShape, gradient: Tensor) -> None:
        self._here.backward = torch._C._current_graph_task_id(), shape

    @property
    def shape(self) -> ClipShape | None:
        """The clips that this thread is computing, if any."""
        shape = getattr(self._here, 'forward', None)
        if shape is None:
            task, kept = getattr(self._here, 'backward', (-1, None))
            if task != -1 and task == torch._C._current_graph_task_id():
                return kept
        return shape


class PartAfter(nn.Module):
    """Has a part transform the feature maps that a submodule returns, between the frames of a clip.

    Args:
        clips: The clips that are being computed; where there are none, features stay as they are.
        layout: How the submodule lays out its maps.
        part: A module that transforms (N, T, C, H, W).
    """

    def __init__(self, clips: ClipsInProgress, layout: FeatureLayout, part: nn.Module) -> None:
        super().__init__()
        self.clips = clips
        self.layout = layout
        self.part = part

    def init_weights(self) -> None:
        """Initialize the part in its own way, if it has one."""
        initialize = getattr(self.part, 'init_weights', None)
        if initialize:
            initialize()

    def forward(self, x: Tensor) -> Tensor:
        """Transform the features of frames (N*T, ...), of the shape of ``x``."""
        clip = self.clips.shape
        if clip is None:
            return x
        maps = self.layout.to_nhwc(x, clip.img_size).unflatten(0, (-1, clip.length))
        maps = self.part(maps.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        return self.layout.from_nhwc(maps.flatten(0, 1), x)

    def replace_output(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Transform a submodule's output, or the first of several: a forward hook."""
        if hasattr(output, '_fields'):  # a named tuple
            return output._replace(**{output._fields[0]: self(output[0])})
        if isinstance(output, (tuple, list)):
            return type(output)([self(output[0]), *output[1:]])
        return self(output)


class ClipNetwork(nn.Module):
    """A 2D network whose frames attend to the next frame, as :func:`add_sifa` makes it."""

    def __init__(
        self,
        backbone: nn.Module,
        clips: ClipsInProgress,
        temporal: nn.ModuleDict,
        in_channels: int,
        clip_len: int | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.clips = clips
        self.in_channels = in_channels
        self.clip_len = clip_len

    def forward(self, x: Tensor) -> Any:
        """Compute what the network computes of frames, which see the next frame of their clip.

        Args:
            x: Clips (N, C, T, H, W), or with ``clip_len`` also their frames (N*T, C, H, W).

        Returns:
            The network's own output for frames (N*T, C, H, W), clip after clip.

        Raises:
            ValueError: If ``x`` has another number of dimensions, channels or frames.
        """
        kind = 'the network with SIFA'
        frames, shape = frames_of(x, kind, self.in_channels, clip_len=self.clip_len)
        return self.clips.run(self.backbone, frames, shape)


def parts_after(
    network: nn.Module,
    after: Sequence[str],
    trial: TrialRun,
    build: Callable[[int], nn.Module],
) -> tuple[ClipsInProgress, nn.ModuleDict]:
    """Have parts between frames follow the submodules of a network that names pick out.

    Args:
        network: The network.
        after: The names, as in :func:`add_sifa`.
        trial: A run of the network.
        build: Makes a part for a number of channels, as :class:`PartAfter` takes it.

    Returns:
        What runs the network with its parts, and the parts.
    """
    modules = dict(network.named_modules())
    clips, temporal = ClipsInProgress(), nn.ModuleDict()
    for name in _match(after, modules, trial):
        layout = trial.submodule_layout(name)
        part = PartAfter(clips, layout, build(layout.channels))
        # Before others, so that those which collect features for the network see ours.
        modules[name].register_forward_hook(part.replace_output, prepend=True)
        temporal[name.replace('.', '-')] = part
    return clips, temporal


def frames_of(
    x: Tensor, kind: str, in_channels: int, **clip_len: int | None
) -> tuple[Tensor, ClipShape]:
    """Make clips (N, C, T, H, W) frames (N*T, C, H, W), or take such frames as they are.

    Args:
        x: Clips, or frames where their number in a clip is given.
        kind: What is called, for the error.
        in_channels: Channels C.
        **clip_len: Frames T of a clip, by the argument's name, or None.

    Raises:
        ValueError: If ``x`` has another number of dimensions, channels or frames.
    """
    ((name, length),) = clip_len.items()
    is_clips = x.dim() == 5
    length_here = x.shape[2] if is_clips else length
    fits = x.dim() in (4, 5) and x.shape[1] == in_channels
    if not fits or not length_here or not (is_clips or len(x) % length_here == 0):
        raise ValueError(
            f'{kind} expects clips (N, {in_channels}, T, H, W), or frames '
            f'(N*T, {in_channels}, H, W) with {name}=T, got {tuple(x.shape)} with '
            f'{name}={length}'
        )
    frames = x.transpose(1, 2).flatten(0, 1) if is_clips else x
    return frames, ClipShape(length_here, (x.shape[-2], x.shape[-1]))


def _match(patterns: Sequence[str], names: Iterable[str], trial: TrialRun) -> list[str]:
    """Return the names that patterns match, where * stands for one part of a name."""
    listed = isinstance(patterns, Sequence) and not isinstance(patterns, str) and len(patterns)
    if not listed or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"after must be a list of names such as ['layer2.1'], got {patterns!r}")
    matched: dict[str, None] = {}
    for pattern in patterns:
        regex = re.compile(re.escape(pattern).replace(r'\*', '[^.]+'))
        hits = [name for name in names if name and regex.fullmatch(name)]
        if not hits:
            raise ValueError(
                f'no submodule of the network is named {pattern!r}. {trial.describe_found()}'
            )
        matched.update(dict.fromkeys(hits))
    return list(matched)
