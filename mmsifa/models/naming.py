"""The names that 2D weights have in other libraries, in terms of the two that we load.

These are torchvision's for a ResNet and the official ones for a Swin. timm names a ResNet as
torchvision does.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# Patterns and what replaces them, one after the other.
_SWIN_NAMES: dict[str, list[tuple[str, str]]] = {
    "torchvision's": [
        (r'^features\.0\.0\.', 'patch_embed.proj.'),
        (r'^features\.0\.2\.', 'patch_embed.norm.'),
        *((rf'^features\.{2 * s + 1}\.', f'layers.{s}.blocks.') for s in range(4)),
        *((rf'^features\.{2 * s + 2}\.', f'layers.{s}.downsample.') for s in range(3)),
        (r'\.mlp\.0\.', '.mlp.fc1.'),
        (r'\.mlp\.3\.', '.mlp.fc2.'),
    ],
    # Here a stage ends with the merging of patches, there it starts with it.
    "timm's": [
        (rf'^layers\.{s + 1}\.downsample\.', f'layers.{s}.downsample.') for s in range(3)
    ],
    "mmpretrain's": [
        (r'^backbone\.', ''),
        (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'^stages\.', 'layers.'),
        (r'\.attn\.w_msa\.', '.attn.'),
        (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
        (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
        (r'^norm3\.', 'norm.'),
    ],
    'the official': [],
}  # fmt: skip


def to_torchvision_resnet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a 2D ResNet's weights torchvision's names, whether torchvision or mmpretrain named them.

    >>> to_torchvision_resnet({'backbone.layer1.0.bn1.bias': 1, 'head.fc.bias': 2})
    {'layer1.0.bn1.bias': 1, 'head.fc.bias': 2}
    """
    return {name.removeprefix('backbone.'): weight for name, weight in weights.items()}


def to_official_swin(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Give a 2D Swin's weights their official names and order.

    Args:
        weights: Weights named officially or by torchvision, timm (0.9 or later) or mmpretrain.

    Returns:
        The weights and whose names they had.

    >>> to_official_swin({'features.3.1.mlp.0.bias': 1, 'head.bias': 2})
    ({'layers.1.blocks.1.mlp.fc1.bias': 1, 'head.bias': 2}, "torchvision's")
    """
    naming = _swin_naming(weights)
    official = {}
    for name, weight in weights.items():
        for pattern, new in _SWIN_NAMES[naming]:
            name = re.sub(pattern, new, name)
        if naming == "mmpretrain's" and '.downsample.' in name:
            weight = _merge_by_columns(weight)
        official[name] = weight
    return official, naming


def _swin_naming(names: Mapping[str, Tensor]) -> str:
    def some(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if some('features.'):
        return "torchvision's"
    if some('stages.', 'backbone.stages.'):
        return "mmpretrain's"
    if some('layers.1.downsample.') and not some('layers.0.downsample.'):
        return "timm's"
    return 'the official'


def _merge_by_columns(weight: Tensor) -> Tensor:
    """Reorder the four neighbours of a patch merging from nn.Unfold's order to the official one.

    The last axis is (channel, row, column) there and (column, row, channel) here.
    """
    if not isinstance(weight, Tensor) or weight.dim() == 0 or weight.shape[-1] % 4:
        return weight  # of a wrong shape, which the loader names
    return weight.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)


def torchvision_name(name: str) -> str:
    """Translate SIFANet's name of a convolution's or its normalization's tensor.

    >>> torchvision_name('layer4.0.conv2.bn.weight')
    'layer4.0.bn2.weight'
    >>> torchvision_name('layer2.0.downsample.conv.weight')
    'layer2.0.downsample.0.weight'
    """
    if 'downsample' in name:
        return name.replace('.conv.', '.0.').replace('.bn.', '.1.')
    if '.bn.' in name:
        return name.replace('conv', 'bn').replace('.bn.', '.')
    return name.replace('.conv.', '.')
