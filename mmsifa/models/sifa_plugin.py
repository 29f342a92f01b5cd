"""SIFA, or another part between frames, inside any 2D backbone, from a config."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmaction.registry import MODELS
from mmengine.model import BaseModule, ModuleDict
from mmengine.utils import get_object_from_string
from torch import Tensor, nn

from mmsifa.models.clip_network import frames_of, parts_after
from mmsifa.models.feature_layout import TrialRun, feature_maps
from mmsifa.models.pretrained_init import check_inner_pretrained, check_pretrained
from mmsifa.ops.arguments import check_configs, check_integers


@MODELS.register_module()
class SIFAPlugin(BaseModule):
    """A 2D backbone whose frames attend to the next frame: SIFA as a plug-in.

    It does for a config what :func:`mmsifa.models.add_sifa` does for a module, and makes clips
    again of the backbone's feature maps, which it finds in the output of any library.

    Args:
        backbone: A module or the config of one, whose type is registered, also in another of
            OpenMMLab's libraries (``'mmaction.ResNet'``, ``'mmpretrain.ConvNeXt'``), or the path of
            something to import and call (``'transformers.ConvNextBackbone.from_pretrained'``,
            ``'timm.create_model'``), whose arguments may be such configs, too. What is imported is
            taken to have its weights already: only MMEngine's modules are initialized later.
        after: Names of the submodules that a part between frames follows, as in ``add_sifa``.
        num_segments: Frames T of a clip where frames (N*T, 3, H, W) come without it, in training
            and in testing, as from ``Recognizer2D``. Defaults to None: only clips are taken.
        between_frames: What follows them, as in :class:`SIFANet`. ``dict(type='SIFA')`` adds what
            was attended as it is, as in SIFA-Net; ``'SIFAWithLayerNorm'`` normalizes it by weights
            that start at zero, as in SIFA-Transformer, so that pretrained features arrive
            unchanged. Defaults to ``dict(type='SIFAWithLayerNorm')``.
        num_prefix_tokens: As in ``add_sifa``, like the two that follow. Defaults to 0.
        in_channels: Defaults to 3.
        img_size: Defaults to ``(224, 256)``.
        init_cfg: Initialization config, such as ``dict(type='Pretrained', checkpoint=...)`` for
            weights of the whole plug-in. Defaults to None.

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
        between_frames: dict = dict(type='SIFAWithLayerNorm'),
        num_prefix_tokens: int = 0,
        in_channels: int = 3,
        img_size: int | tuple[int, int] = (224, 256),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_segments is not None:
            check_integers(num_segments=num_segments)
        check_configs(between_frames=between_frames)
        self.num_segments = num_segments
        self.in_channels = in_channels
        module: Any = backbone if isinstance(backbone, nn.Module) else _build(backbone)
        has_weights = module is backbone or _is_importable(backbone)
        if has_weights and not isinstance(module, BaseModule):
            module.is_init = True  # or MMEngine would call an init_weights of another kind
        self.backbone = module

        trial = TrialRun(module, num_segments or 2, in_channels, img_size, num_prefix_tokens)
        self.layouts = trial.backbone_layouts()

        def part(channels: int) -> nn.Module:
            return MODELS.build(dict(between_frames, channels=channels))

        self.clips, temporal = parts_after(module, after, trial, part)
        self.temporal = ModuleDict(temporal)

    def init_weights(self) -> None:
        """Initialize the backbone and the parts in their own way, then load ``init_cfg``'s weights.

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
        segments = dict(num_segments=self.num_segments)
        frames, clip = frames_of(x, 'SIFAPlugin', self.in_channels, **segments)
        features = feature_maps(self.clips.run(self.backbone, frames, clip))
        outs = []
        for layout, maps in zip(self.layouts, features, strict=True):
            maps = layout.to_nhwc(maps, clip.img_size).permute(0, 3, 1, 2)
            if x.dim() == 5:
                maps = maps.unflatten(0, (-1, clip.length)).transpose(1, 2)
            outs.append(maps)
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
