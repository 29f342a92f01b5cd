"""What a recognizer costs: parameters, and multiply-adds by stage and by part."""

from collections import Counter, defaultdict
from math import prod
from typing import Any

import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmsifa.datasets.pipelines import Clip
from mmsifa.models.sifa_block import SIFA, OffsetConv

MOST = 0.9  # of the backbone's multiply-adds: no stage has more if it can be taken apart
PARTS = ('trunk', 'offsets', 'inter-frame attention', 'neck', 'head')


def _fused_attention_flops(query_shape, key_shape, value_shape, *_, **options) -> int:
    tokens, channels = key_shape[-2], query_shape[-1] + value_shape[-1]
    return 2 * prod(query_shape[:-1]) * tokens * channels


# PyTorch counts that of GPUs only.
_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_flops}


def build_untrained(config: Config) -> nn.Module:
    """Build a recognizer on the CPU without reading the pretrained weights that its config names.

    Args:
        config: Its config.

    Returns:
        The recognizer, with random weights.
    """
    init_default_scope(config.get('default_scope', 'mmaction'))
    return MODELS.build(_without_pretrained(config.model))


def _without_pretrained(cfg: Any) -> Any:
    if not isinstance(cfg, dict):
        return cfg
    return {k: None if k == 'pretrained' else _without_pretrained(v) for k, v in cfg.items()}


def count_parameters(model: nn.Module) -> int:
    """Count the parameters.

    Args:
        model: Any module.

    Returns:
        Their number, shared ones once.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, clip: Clip) -> dict[str, dict[str, int]]:
    """Count the multiply-adds of one clip's forward pass, by stage and by part.

    Those of convolutions, linear layers, attention and inter-frame attention, each once per
    multiplication; not normalization, activations, pooling and additions. Each is counted where it
    happens, in the innermost module, so the counts add up to the whole.

    The stages are the backbone's submodules, ``neck`` and ``head``; a submodule that has more than
    nine tenths of the backbone's multiply-adds, such as Swin's ``layers``, is replaced by its own
    submodules. The parts are ``offsets``, the
    offset predictors of SIFA blocks; ``inter-frame attention``, the op itself and the sum over the
    vectors of a tap embedding, whose weights are not counted again; ``neck``; ``head``; and
    ``trunk``, all else of the backbone.

    Args:
        model: A recognizer in test mode, on any device; on ``'meta'`` nothing is computed.
        clip: Its input.

    Returns:
        For each stage, in the order of the forward pass, the counts of its parts that have any.

    Example:
        >>> from mmsifa.apis.analysis import build_untrained, clip_of, count_multiply_adds
        >>> from mmsifa.apis import load_config
        >>> config = load_config('sifa_tiny_motion')
        >>> model = build_untrained(config).eval().to('meta')
        >>> counts = count_multiply_adds(model, clip_of(config, side=64))
        >>> counts['layer2']['inter-frame attention']  # 3 pairs of frames, 8 x 8 taps of 3 x 3
        331776
        >>> counts['head']
        {'head': 8192}
    """
    by_module = _count_by_module(model, clip)
    parts: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, SIFA):
            parts[name] = 'inter-frame attention'
        elif isinstance(module, OffsetConv):
            parts[name] = 'offsets'
    stages = _stages(by_module)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, number in by_module.items():
        stage = stages[name]
        part = stage if stage in ('neck', 'head') else parts.get(name, 'trunk')
        counts[stage][part] += number
    return {stage: dict(parts) for stage, parts in counts.items()}


def total(counts: dict[str, dict[str, int]]) -> int:
    """Add up what :func:`count_multiply_adds` counted."""
    return sum(sum(parts.values()) for parts in counts.values())


def by_part(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Add up each part of what :func:`count_multiply_adds` counted, over the stages."""
    return {part: sum(parts.get(part, 0) for parts in counts.values()) for part in PARTS}


def _count_by_module(model: nn.Module, clip: Clip) -> dict[str, int]:
    """Count for innermost modules, in order of first use."""
    counts: Counter[str] = Counter()
    running = ['']
    seen: Counter = Counter()

    def settle() -> None:
        new = Counter(counter.flop_counts['Global']) - seen
        if new:
            counts[running[-1]] += new.total() // 2  # a multiplication and an addition
        seen.update(new)

    def enter(name: str) -> None:
        settle()
        running.append(name)

    def leave() -> None:
        settle()
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda *_, name=name: enter(name)),
            module.register_forward_hook(lambda *_: leave()),
        ]
    frames = torch.empty(1, *clip.shape, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
            scores(model, frames)
            settle()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def scores(model: nn.Module, frames: Tensor) -> Tensor:
    """Run a recognizer's whole forward pass.

    Args:
        model: A recognizer.
        frames: Normalized clips, (N, 1, 3, T, H, W), in 2D (N, T, 3, H, W).

    Returns:
        What its head returns, before it averages clips.
    """
    return model(frames, mode='tensor', stage='head')


def _stages(by_module: dict[str, int]) -> dict[str, str]:
    """Name the stage that each module belongs to."""
    backbone = Counter[str]()
    for name, number in by_module.items():
        if name.split('.')[0] == 'backbone':
            backbone[name] += number
    opened = {'backbone'}
    while True:
        sizes = Counter[str]()
        for name, number in backbone.items():
            sizes[_outermost(name, opened)] += number
        stage, size = max(sizes.items(), key=lambda item: item[1], default=('', 0))
        is_container = stage not in opened and stage not in backbone
        if not is_container or size <= MOST * backbone.total():
            break
        opened.add(stage)
    stages = {name: _outermost(name, opened).removeprefix('backbone.') for name in backbone}
    for name in by_module:
        stages.setdefault(name, name.split('.')[0].removeprefix('cls_'))
    return stages


def _outermost(name: str, opened: set[str]) -> str:
    """Return the outermost module around a module, or that itself, that is not opened."""
    parts = name.split('.')
    around = ('.'.join(parts[: i + 1]) for i in range(len(parts)))
    return next((outer for outer in around if outer not in opened), name)
