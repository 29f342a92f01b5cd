"""Weights of the code that the paper's authors released, as those of our recognizers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from mmaction.registry import MODELS
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmsifa.checkpoints.fit import first_ten, kind_of, same_kind, state_dict_in, without_module
from mmsifa.models.sifa_block import SIFA
from mmsifa.models.weights_2d import torchvision_name

# What the release saves and a network of ours does not hold.
_NOT_USED = re.compile(
    r'layer([234]|4_dual)\.\d*[13579]\.def_cor\.weight|'
    r'layers\.[0-3]\.blocks\.\d+\.'
    r'(attn_mask|attn\.relative_position_index|tda_norm\.(weight|bias)|(conv|def_cor)\.weight)'
)


@dataclass(frozen=True)
class Conversion:
    """What weights of the released code are for us.

    Attributes:
        network: The network, in words.
        model: The recognizer's config.
        state_dict: Its weights, in float32.
        num_weights: How many of them came from the release.
        unused: Names of the release's tensors that it does not need.
    """

    network: str
    model: dict
    state_dict: dict[str, Tensor]
    num_weights: int
    unused: list[str]


def convert_released_state_dict(state_dict: Mapping) -> dict[str, Tensor]:
    """Turn the weights of the released research code into those of a recognizer of ours.

    The recognizer is ``SIFANet`` with ``SIFAHead`` for the released SIFA-ResNets, and
    ``SIFATransformer`` with ``deformable=False``, ``patch_norm=False`` and MMAction2's ``I3DHead``
    for the released SIFA-Swins, which were made for frames of 224 x 224 pixels. Depth, widths and
    classes follow from names and shapes. Tensors that are not used are logged;
    :func:`convert_release` returns their names and the recognizer's config, too.

    Args:
        state_dict: The released network's state dict, or a checkpoint that holds it as
            ``'model'`` or ``'state_dict'``; names may start with ``module.``, and tensors may be in
            half precision.

    Returns:
        Weights in float32 that ``recognizer.load_state_dict(..., strict=True)`` accepts.

    Raises:
        ValueError: If weights are missing, unknown, of another shape or of whole numbers, or if
            attention weights (``def_cor``) are not the release's constants. The message names them.

    Example:
        >>> import torch
        >>> from mmsifa.apis.conversion import convert_released_state_dict
        >>> convert_released_state_dict({'fc.bias': torch.zeros(400)})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: expected weights of the released SIFA-Net, such as 'conv1.weight', or ...
    """
    converted = convert_release(state_dict)
    print_log(
        f'converted {converted.num_weights} weights of a {converted.network}; '
        f'not used: {converted.unused}',
        logger='current',
    )
    return converted.state_dict


def convert_release(state_dict: Mapping) -> Conversion:
    """Do what :func:`convert_released_state_dict` does, and tell what was found.

    Args:
        state_dict: As there.

    Returns:
        The weights, the config of their recognizer, and what was not used.

    Raises:
        ValueError: As there.
    """
    weights = without_module(state_dict_in(state_dict))
    network, model = _recognizer(weights)
    try:
        with torch.device('meta'):  # takes no memory, whatever names and shapes claim
            plan = _build(model)
    except RuntimeError as error:
        raise ValueError(f'no {network} can be built: {error}') from None
    sources = _check_fit(weights, network, plan)
    converted = {}
    for name, target in _build(model).state_dict().items():
        if name in sources:
            # Only the place of an axis of length 1 differs, or that two axes are one.
            weight = weights[sources[name]].reshape(target.shape)
            target = weight.to(target.dtype, copy=True)
        converted[name] = target
    used = set(sources.values())
    unused = [name for name in weights if name not in used]
    return Conversion(network, model, converted, len(sources), unused)


def _build(model: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmaction'):
        return MODELS.build(model)


def _check_fit(weights: Mapping, network: str, recognizer: nn.Module) -> dict[str, str]:
    """Return the release's names of a recognizer's weights, all but those that are computed."""
    sources: dict[str, str] = {}
    wrong: list[str] = []
    computed = 0
    for name, target in recognizer.state_dict().items():
        source = _released_name(name)
        shape = _released_shape(source, target)
        if name.endswith('relative_position_index'):
            computed += target.numel()
        elif source in weights:
            sources[name] = source
            if not same_kind(weights[source], target):
                wrong.append(f'{source} is {kind_of(weights[source])}, expected {target.dtype}')
            elif _shape(weights[source]) != shape:
                wrong.append(f'{source} has shape {_shape(weights[source])}, expected {shape}')
        elif not name.endswith('num_batches_tracked'):
            wrong.append(f'{source} is missing')
    used = set(sources.values())
    unused = [name for name in weights if name not in used]
    wrong += [f'{name} is unknown' for name in unused if not _NOT_USED.fullmatch(name)]
    for name, module in recognizer.named_modules():
        if isinstance(module, SIFA):
            source = f'{_released_name(name)}.def_cor.weight'
            if source in weights and not _is_mean(weights[source], module.channels):
                wrong.append(f'{source} is not 1/{module.channels} everywhere')
    if not wrong and computed > (held := sum(weights[source].numel() for source in used)):
        wrong.append(f'windows that large need {computed} positions, more than its {held} numbers')
    if wrong:
        raise ValueError(f'these are not the weights of a released {network}: {first_ten(wrong)}')
    return sources


def _recognizer(weights: Mapping) -> tuple[str, dict]:
    """Infer the network, in words and as a config."""
    num_classes = _size(weights, 'fc.weight', 'fc.bias', default=1)
    if any(name.startswith(('conv1.', 'layer1.')) for name in weights):
        blocks = tuple(_count(weights, f'layer{i}.') for i in (1, 2, 3, 4))
        channels = _size(weights, 'conv1.weight', 'bn1.weight', default=64)
        network = f'SIFA-Net with {"-".join(map(str, blocks))} bottlenecks and {channels} channels'
        backbone = dict(type='SIFANet', stage_blocks=blocks, base_channels=channels)
        head = dict(type='SIFAHead', num_classes=num_classes, in_channels=32 * channels)
    elif any(name.startswith(('patch_embed.', 'layers.')) for name in weights):
        depths = tuple(_count(weights, f'layers.{s}.blocks.') for s in range(4))
        channels = _size(weights, 'patch_embed.proj.weight', 'patch_embed.proj.bias', default=96)
        table = 'layers.{}.blocks.0.attn.relative_position_bias_table'
        heads = tuple(_size(weights, table.format(s), axis=1, default=1) for s in range(4))
        side = round(_size(weights, *map(table.format, range(4)), default=169) ** 0.5) // 2 + 1
        network = f'SIFA-Swin with {"-".join(map(str, depths))} blocks and {channels} channels'
        backbone = dict(
            type='SIFATransformer',
            arch=dict(embed_dims=channels, depths=depths, num_heads=heads),
            window_size=(1, side, side),
            deformable=False,
            patch_norm=False,
        )
        head = dict(type='I3DHead', num_classes=num_classes, in_channels=8 * channels)
    else:
        raise ValueError(
            "expected weights of the released SIFA-Net, such as 'conv1.weight', or SIFA-Swin, such "
            f"as 'patch_embed.proj.weight', got {sorted(map(str, weights))[:3]}"
        )
    return network, dict(type='Recognizer3D', backbone=backbone, cls_head=head)


def _count(weights: Iterable[str], prefix: str) -> int:
    """Count the blocks that are numbered after a prefix; at least one is expected.

    Raises:
        ValueError: If there are too few weights for as many, of which a block has ten at least.
    """
    found = [re.match(rf'{re.escape(prefix)}(\d+)\.', name) for name in weights]
    numbers = [number[1] for number in found if number]
    last = max(numbers, key=lambda number: (len(number), number), default='0')
    if len(last) > 9 or int(last) > len(numbers) // 10:
        raise ValueError(
            f'{prefix}{last} is named, but the {len(numbers)} weights named {prefix}* are too few '
            'for as many blocks'
        )
    return int(last) + 1


def _size(weights: Mapping, *names: str, axis: int = 0, default: int) -> int:
    """Return the size of the first of these weights that has one; what is wrong shows later."""
    for name in names:
        weight = weights.get(name)
        if isinstance(weight, Tensor) and weight.dim() > axis and weight.numel():
            return weight.shape[axis]
    return default


def _shape(weight: object) -> tuple[int, ...] | None:
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def _released_name(name: str) -> str:
    """Translate a recognizer's name into the release's.

    >>> _released_name('backbone.layer4_dual.1.sifa.conv_offset.weight')
    'layer4_dual.1.conv_offset.weight'
    >>> _released_name('backbone.layers.0.blocks.1.temporal.conv.weight')
    'layers.0.blocks.1.conv.weight'
    """
    name = name.removeprefix('backbone.').replace('cls_head.fc_cls', 'fc').replace('.sifa', '')
    if name.startswith('layers.'):
        return name.replace('.temporal.norm.', '.tda_norm.').replace('.temporal', '')
    return re.sub(r'^norm3\.', 'norm.', torchvision_name(name))


def _released_shape(source: str, target: Tensor) -> tuple[int, ...]:
    """Return the shape that the release has for a tensor of ours."""
    if target.dim() != 4:
        return tuple(target.shape)
    outs, ins, *sides = target.shape
    if source.startswith('layers.'):  # the convolution over time
        return (outs, ins, *reversed(sides))
    frames = 4 if source == 'conv1.weight' else 1
    return (outs, ins // frames, frames, *sides)


def _is_mean(weight: Tensor, channels: int) -> bool:
    """Return whether correlations are means over channels, as exactly as the dtype can say."""
    shape = _shape(weight)
    if not shape or shape[0] != channels or not weight.is_floating_point() or not weight.numel():
        return False
    ends = torch.stack(weight.aminmax())  # NaN if any is
    mean = torch.full_like(ends, 1 / channels)
    return torch.allclose(ends, mean, rtol=torch.finfo(weight.dtype).eps, atol=0)
