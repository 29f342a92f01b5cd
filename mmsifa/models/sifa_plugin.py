"""SIFA inside any 2D backbone: blocks after the submodules that their names pick out."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from mmaction.registry import MODELS
from mmengine.model import BaseModule
from mmengine.utils import get_object_from_string, to_2tuple
from torch import Tensor, nn

from mmsifa.models.feature_layout import FeatureLayout, TrialRun, feature_maps
from mmsifa.models.pretrained_init import check_inner_pretrained, check_pretrained
from mmsifa.models.sifa_block import SIFA
from mmsifa.models.temporal_parts import TemporalAttention
from mmsifa.ops.arguments import check_flags, check_integer_lists, check_integers


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

    @contextmanager
    def computing(self, shape: ClipShape) -> Iterator[None]:
        """Say what is being computed within a ``with`` block."""
        before = getattr(self._here, 'forward', None)
        self._here.forward = shape
        try:
            yield
        finally:
            self._here.forward = before

    def keep_for_backward(self, shape: ClipShape, outs: Iterable[Tensor]) -> None:
        """Say it again in the backward pass from these outputs, which may compute blocks again."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for out in outs:
                if out.requires_grad:
                    out.register_hook(partial(self._begin_backward, shape))

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


class AttentionAfter(BaseModule):
    """Lets the feature maps that a submodule returns attend to those of the next frame.

    Args:
        clips: The clips that are being computed; where there are none, features stay as they are.
        layout: How the submodule lays out its maps.
        zero_init: As in :class:`SIFAPlugin`.
        **sifa_cfg: Arguments of :class:`SIFA`.
    """

    def __init__(
        self, clips: ClipsInProgress, layout: FeatureLayout, zero_init: bool, **sifa_cfg
    ) -> None:
        super().__init__()
        self.clips = clips
        self.layout = layout
        if zero_init:
            self.attention: BaseModule = TemporalAttention(layout.channels, **sifa_cfg)
        else:
            self.attention = SIFA(layout.channels, residual=True, **sifa_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the features of frames (N*T, ...), of the shape of ``x``."""
        clip = self.clips.shape
        if clip is None:
            return x
        maps = self.layout.to_nhwc(x, clip.img_size).unflatten(0, (-1, clip.length))
        maps = self.attention(maps.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        return self.layout.from_nhwc(maps.flatten(0, 1), x)

    def replace_output(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Transform a submodule's output, or the first of several: a forward hook."""
        if hasattr(output, '_fields'):  # a named tuple
            return output._replace(**{output._fields[0]: self(output[0])})
        if isinstance(output, tuple | list):
            return type(output)([self(output[0]), *output[1:]])
        return self(output)


@MODELS.register_module()
class SIFAPlugin(BaseModule):
    """A 2D backbone whose frames attend to the next frame: SIFA as a plug-in.

    ::

        clips (N, 3, T, H, W) -> frames (N*T, 3, H, W) -> backbone -> features (N, C, T, H', W')
                                                             |
                     submodule's output -> SIFA over the T frames of each clip -> next submodule

    The backbone keeps its code, the names of its weights and its own way of loading them. A trial
    run on a few frames finds out which submodules return feature maps, and of how many channels:
    (N*T, C, H, W), (N*T, H, W, C) or tokens (N*T, L, C), alone or as the first of several outputs.
    Maps have the frames' shape; either side may lack up to 4 positions for want of padding.

    Called directly, the backbone has its own features: the blocks act in a call of the plug-in and
    in the backward pass from its features, which may compute parts again (``with_cp``).

    Args:
        backbone: A module or the config of one, whose type is registered, also in another of
            OpenMMLab's libraries (``'mmaction.ResNet'``, ``'mmpretrain.ConvNeXt'``), or the path of
            something to import and call (``'transformers.ConvNextBackbone.from_pretrained'``,
            ``'timm.create_model'``), whose arguments may be such configs, too. What is imported is
            taken to have its weights already: only MMEngine's modules are initialized later.
        after: Names of the submodules that a SIFA block follows, as the backbone's
            ``named_modules()`` gives them. ``*`` stands for one part of a name: ``'layer3.*'``.
        num_segments: Frames T of a clip where frames (N*T, 3, H, W) come without it, in training
            and in testing, as from ``Recognizer2D``. Defaults to None: only clips are taken.
        zero_init: Whether what was attended is normalized by weights that start at zero, as in
            SIFA-Transformer, so that pretrained features arrive unchanged. False adds it as it is,
            as in SIFA-Net. Defaults to True.
        num_prefix_tokens: Tokens before those of the image, such as a class token. Defaults to 0.
        in_channels: Channels of a frame. Defaults to 3.
        img_size: Height and width of the trial run's frames in pixels. Different sides tell a map's
            rows and columns from its channels. Defaults to ``(224, 256)``.
        init_cfg: Initialization config, such as ``dict(type='Pretrained', checkpoint=...)`` for
            weights of the whole plug-in. Defaults to None.
        **sifa_cfg: Arguments of :class:`SIFA`: ``kernel_size``, ``dilation``, ``num_heads``,
            ``softmax``, ``deformable``, ``motion_rescaling``, ``tap_embedding``, ``backend``.

    Raises:
        ImportError: If the backbone's package is not installed.
        ValueError: If a name matches nothing, or a submodule or the backbone returns no feature
            map, or is called several times for a frame, or if the trial run fails.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFAPlugin
        >>> net = SIFAPlugin(dict(type='mmaction.ResNet', depth=50), after=['layer2.1', 'layer3.*'])
        >>> net(torch.rand(2, 3, 4, 64, 64)).shape  # (N, C, T, H, W)
        torch.Size([2, 2048, 4, 2, 2])
    """

    own_parts = ('temporal',)  # which files of a 2D recognizer lack

    def __init__(
        self,
        backbone: dict | nn.Module,
        after: Sequence[str],
        num_segments: int | None = None,
        zero_init: bool = True,
        num_prefix_tokens: int = 0,
        in_channels: int = 3,
        img_size: int | tuple[int, int] = (224, 256),
        init_cfg: dict | list[dict] | None = None,
        **sifa_cfg,
    ) -> None:
        super().__init__(init_cfg)
        check_integers(in_channels=in_channels)
        check_integers(0, num_prefix_tokens=num_prefix_tokens)
        check_flags(zero_init=zero_init)
        if num_segments is not None:
            check_integers(num_segments=num_segments)
        check_integer_lists(2, img_size=to_2tuple(img_size))
        self.num_segments = num_segments
        self.in_channels = in_channels
        module: Any = backbone if isinstance(backbone, nn.Module) else _build(backbone)
        has_weights = module is backbone or _is_importable(backbone)
        if has_weights and not isinstance(module, BaseModule):
            module.is_init = True  # or MMEngine would call an init_weights of another kind
        self.backbone = module

        trial = TrialRun(
            self.backbone, num_segments or 2, in_channels, to_2tuple(img_size), num_prefix_tokens
        )
        self.layouts = trial.backbone_layouts()
        modules = dict(self.backbone.named_modules())
        self.clips = ClipsInProgress()
        self.temporal = nn.ModuleDict()
        for name in _match(after, modules, trial):
            part = AttentionAfter(self.clips, trial.submodule_layout(name), zero_init, **sifa_cfg)
            # Before others, so that those which collect features for the backbone see ours.
            modules[name].register_forward_hook(part.replace_output, prepend=True)
            self.temporal[name.replace('.', '-')] = part

    def init_weights(self) -> None:
        """Initialize the backbone in its own way and the blocks, then load ``init_cfg``'s weights.

        Raises:
            ValueError: If a file does not fill what it is for, or holds more than that; it names
                the weights.
        """
        check_inner_pretrained(self.backbone)
        check_pretrained(self)
        super().init_weights()

    def check_segments(self, num_frames: int, data_samples: Sequence | None = None) -> None:
        """Refuse frames of ``Recognizer2D`` that are no clips of ``num_segments`` frames.

        ``Recognizer2D`` calls this before each pass (:mod:`mmsifa.engine.patches`).

        Args:
            num_frames: Frames of a sample, all its clips and crops together.
            data_samples: The samples, which say how their frames were chosen, if they know.

        Raises:
            ValueError: If clips have another number of frames.
        """
        if not self.num_segments:
            return
        lengths = {frames_of_clip(sample) for sample in data_samples or ()} - {None}
        wrong = lengths - {self.num_segments}
        if wrong or num_frames % self.num_segments:
            clips = f'clips of {wrong.pop()}' if wrong else 'clips of unknown length'
            raise ValueError(
                f'SIFAPlugin expects clips of num_segments={self.num_segments} frames, got samples '
                f'of {num_frames} frames, in {clips}: have the pipelines of training and '
                'of testing choose num_segments frames (num_clips)'
            )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Clips (N, C, T, H, W), or with ``num_segments`` also their frames (N*T, C, H, W).

        Returns:
            The backbone's feature maps, (N, C', T, H', W') of clips and (N*T, C', H', W') of
            frames; a single tensor if there is only one.

        Raises:
            ValueError: If ``x`` has another number of dimensions, channels or frames.
        """
        is_clips = x.dim() == 5
        clip_len = x.shape[2] if is_clips else self.num_segments
        fits = x.dim() in (4, 5) and x.shape[1] == self.in_channels
        if not fits or not clip_len or not (is_clips or len(x) % clip_len == 0):
            raise ValueError(
                f'SIFAPlugin expects clips (N, {self.in_channels}, T, H, W), or frames '
                f'(N*T, {self.in_channels}, H, W) with num_segments=T, got {tuple(x.shape)} with '
                f'num_segments={self.num_segments}'
            )
        shape = ClipShape(clip_len, (x.shape[-2], x.shape[-1]))
        frames = x.transpose(1, 2).flatten(0, 1) if is_clips else x
        with self.clips.computing(shape):
            features = feature_maps(self.backbone(frames))
        outs = []
        for layout, maps in zip(self.layouts, features, strict=True):
            maps = layout.to_nhwc(maps, shape.img_size).permute(0, 3, 1, 2)
            outs.append(maps.unflatten(0, (-1, clip_len)).transpose(1, 2) if is_clips else maps)
        self.clips.keep_for_backward(shape, outs)
        return outs[0] if len(outs) == 1 else tuple(outs)


def frames_of_clip(chosen: Any) -> int | None:
    """Return how many frames of a video make a clip for ``Recognizer2D``, if that is known.

    Args:
        chosen: What has the ``clip_len`` and the ``num_clips`` of a step that chooses frames.
    """
    clip_len, num_clips = chosen.get('clip_len'), chosen.get('num_clips')
    return clip_len if clip_len and clip_len > 1 else num_clips


def _find_callable(kind: Any) -> Callable | None:
    """Return what can be imported by this name and called, if anything."""
    if not isinstance(kind, str):
        return None
    package = kind.split('.')[0]
    if '.' in kind and find_spec(package) is None:
        raise ImportError(f'{kind} needs the package {package}, which is not installed')
    found = get_object_from_string(kind)
    return found if callable(found) else None


def _build(cfg: Any) -> Any:
    """Build a config by calling what its type imports, or else from the registry."""
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ValueError(f"expected a module or a config with a 'type', got {cfg!r}")
    called = _find_callable(cfg['type'])
    if called is None:
        if isinstance(cfg['type'], str) and MODELS.get(cfg['type']) is None:
            raise ValueError(f'{cfg["type"]} is neither registered nor can it be imported')
        return MODELS.build(cfg)
    args = {
        key: _build(value) if _is_importable(value) else value
        for key, value in cfg.items()
        if key not in ('type', '_scope_')  # the latter from a config of another library
    }
    return called(**args)


def _is_importable(value: Any) -> bool:
    return isinstance(value, Mapping) and _find_callable(value.get('type')) is not None


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
                f'no submodule of the backbone is named {pattern!r}. {trial.describe_found()}'
            )
        matched.update(dict.fromkeys(hits))
    return list(matched)
