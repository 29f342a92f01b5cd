"""Weights of 2D networks, under the names of several libraries, for those that we inflate.

An error where a file does not fit. Names become torchvision's for a ResNet, as timm has them, too,
and the official ones for a Swin.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsifa.checkpoints.fit import (
    first_ten,
    kind_of,
    same_kind,
    state_dict_in,
    without_module,
    without_place,
)
from mmsifa.checkpoints.load import load_file

_INIT_CFG = "pretrained=None and init_cfg=dict(type='Pretrained', checkpoint={})"


def load_2d_weights(net: BaseModule, path: str) -> None:
    """Load the weights of a 2D ResNet of torchvision, timm or mmpretrain into a SIFA-Net.

    The stem's middle frame (2 of 4) gets the 2D kernel and the others zeros; both fourth stages
    get the same weights.

    Args:
        net: A SIFANet, or a 2D ResNet of MMAction2.
        path: A path, a URL or ``'torchvision://resnet50'``.

    Raises:
        ValueError: If the file lacks a weight, has one of another shape, or one that has no place
            and is not of a classifier or of stages that the network does without.
    """
    file = without_module(state_dict_in(load_file(path)))
    weights = to_torchvision_resnet(file)

    def targets() -> Iterator[tuple[str, str, Tensor]]:
        for name, target in _conv_and_norm_tensors(net):
            source = torchvision_name(name.replace('_dual', ''))
            if source in weights or not source.endswith('num_batches_tracked'):
                yield source, name, target

    def fit(source: str, weight: Tensor) -> Tensor:
        if source == 'conv1.weight' and weight.dim() == 4:
            return _inflate_stem(weight, getattr(net, 'tubelet_size', 1))
        return weight

    used, wrong = _copy_weights(weights, targets(), fit)
    blocks = '-'.join(map(str, net.stage_blocks))
    kind = f"2D ResNet with {blocks} bottlenecks in torchvision's naming"
    advice = _advice(net, file, _INIT_CFG.format('...'))
    left_out = tuple(f'layer{i}.' for i in range(len(net.stage_blocks) + 1, 5))
    _report(path, kind, wrong, used, weights, left_out, advice)


def load_2d_swin_weights(net: BaseModule, path: str) -> None:
    """Load the weights of a 2D Swin into a SIFA-Transformer.

    They have the official names or those of torchvision, timm or mmpretrain. The embedding's
    kernel is spread evenly over a tubelet's frames. Position tables of another window are resized,
    and repeated over the window's frames. The parts between frames stay.

    Args:
        net: A SIFATransformer.
        path: A path or URL.

    Raises:
        ValueError: If the file lacks a weight, has one of another shape, or one that has no place
            and is not of a classifier or of stages that the network does without.
    """
    file = without_module(state_dict_in(load_file(path)))
    weights, naming = to_official_swin(file)
    computed = ('relative_position_index', 'attn_mask')
    weights = {name: weight for name, weight in weights.items() if not name.endswith(computed)}

    def targets() -> Iterator[tuple[str, str, Tensor]]:
        for name, target in net.state_dict().items():
            source = re.sub(r'^norm3\.', 'norm.', name)
            # Norms of earlier stages are ours alone, unless the file has them.
            fresh = re.match(r'norm\d\.', source) and source not in weights
            if not (fresh or '.temporal.' in name or name.endswith(computed)):
                yield source, name, target

    def fit(source: str, weight: Tensor) -> Tensor:
        weight = weight.float()
        if source == 'patch_embed.proj.weight' and weight.dim() == 4:
            frames = net.patch_size[0]
            return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
        if source.endswith('relative_position_bias_table'):
            return _resize_position_table(weight, net.window_size)
        return weight

    used, wrong = _copy_weights(weights, targets(), fit)
    blocks = '-'.join(map(str, net.depths))
    kind = f'2D Swin with {blocks} blocks and {net.embed_dims} channels in {naming} naming'
    if naming != 'the official':
        kind += ' (here in the official one)'
    advice = _advice(net, file, 'pretrained2d=False')
    left_out = net.left_out if 'norm3' in net._modules else ('norm.', *net.left_out)
    _report(path, kind, wrong, used, weights, left_out, advice)


def _copy_weights(
    weights: Mapping[str, Tensor],
    targets: Iterable[tuple[str, str, Tensor]],
    fit: Callable[[str, Tensor], Tensor],
) -> tuple[set[str], list[str]]:
    """Copy 2D weights into a network.

    Args:
        weights: The weights.
        targets: The name of a weight, that of the network's tensor for it, and that tensor.
        fit: Makes a named weight into what the network has for it.

    Returns:
        The names of the weights that the network has a place for, and what is wrong.
    """
    used: set[str] = set()
    wrong: list[str] = []
    for source, name, target in targets:
        weight = weights.get(source)
        if weight is None:
            wrong.append(f'{source} is missing')
            continue
        used.add(source)
        if not same_kind(weight, target):
            wrong.append(f'{source} is {kind_of(weight)}, expected {target.dtype}')
            continue
        fitted = fit(source, weight)
        if fitted.shape == target.shape:
            target.copy_(fitted)
        else:
            wrong.append(
                f'{source} has shape {tuple(weight.shape)}, which does not fit {name} '
                f'{tuple(target.shape)}'
            )
    return used, wrong


def _resize_position_table(table: Tensor, window_size: tuple[int, int, int]) -> Tensor:
    """Fit a 2D position table ((2w-1)^2, heads) to a window of frames, rows and columns."""
    frames, *sides = (2 * size - 1 for size in window_size)
    side = round(len(table) ** 0.5) if table.dim() == 2 and table.numel() else 0
    if not side or side**2 != len(table):
        return table  # of no 2D window, which its shape shows
    if sides != [side, side]:
        square = table.T.reshape(1, -1, side, side)
        table = F.interpolate(square, sides, mode='bicubic').flatten(2)[0].T
    return table.repeat(frames, 1)


def _advice(net: BaseModule, names: Container[str], option: str) -> str:
    """Say how weights of the backbone itself are loaded, if a file for 2D weights has such."""
    own = net.state_dict()
    if not all(name in names for name in own):
        if not all(f'backbone.{name}' in names for name in own):
            return ''
        option = _INIT_CFG.format("..., prefix='backbone.'")
    return f'. These are weights of this backbone itself: set {option}'


def _report(
    path: str,
    kind: str,
    wrong: list[str],
    used: set[str],
    weights: Mapping[str, Tensor],
    left_out: tuple[str, ...],
    advice: str,
) -> None:
    unused = sorted(weights.keys() - used)
    homeless = without_place(unused, left_out)
    if wrong or homeless:
        what = first_ten(wrong) or f'{len(homeless)} of its weights have no place there'
        raise ValueError(
            f'{path} does not hold the weights of a {kind}: {what}. Of the names in the file '
            f'these are not used: {(homeless or unused)[:3]}{advice}'
        )
    print_log(f'loaded {len(used)} 2D weights from {path}; not used: {unused}', logger='current')


def _inflate_stem(weight: Tensor, tubelet_size: int) -> Tensor:
    slices = weight.new_zeros(*weight.shape[:2], tubelet_size, *weight.shape[2:])
    slices[:, :, tubelet_size // 2] = weight
    return slices.flatten(1, 2)


def _conv_and_norm_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and tensor of every weight that a 2D ResNet has as well."""
    for name, module in net.named_modules():
        if isinstance(module, ConvModule) and '.non_local_block.' not in name:
            for role, part in (('conv', module.conv), ('bn', module.norm)):
                for key, tensor in part.state_dict().items():
                    # TSM wraps blocks or convolutions.
                    yield re.sub(r'\.(block|net)(?=\.)', '', f'{name}.{role}.{key}'), tensor


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
