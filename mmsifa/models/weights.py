"""Weights from files, with an error instead of silence where they do not fit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmsifa.models.sifa_net import SIFANet
    from mmsifa.models.sifa_transformer import SIFATransformer


def check_some_weight_fits(net: nn.Module, path: str, prefix: str = '') -> None:
    """Refuse a file for ``init_cfg=dict(type='Pretrained')`` that would load nothing.

    Args:
        net: The backbone.
        path: A checkpoint as MMEngine's loaders take it.
        prefix: What precedes the backbone's names in the file.

    Raises:
        ValueError: If no weight in the file has the name of one of the backbone.
    """
    names = _load_state_dict(path).keys()
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    own = net.state_dict()
    if not any(prefix + name in names for name in own):
        raise ValueError(
            f"no weight in {path} belongs to this backbone: expected names like '{prefix}"
            f"{next(iter(own))}', got {sorted(names)[:3]}. For the weights of a whole recognizer "
            "set prefix='backbone.' in init_cfg; 2D weights go into the argument 'pretrained'"
        )


def load_2d_weights(net: 'SIFANet', path: str) -> None:
    """Load a 2D ResNet's weights in torchvision's naming into a SIFA-Net.

    The stem's middle frame (2 of 4) gets the 2D kernel and the others zeros; both fourth stages
    get the same weights.

    Args:
        net: The backbone.
        path: A path, a URL or ``'torchvision://resnet50'``.

    Raises:
        ValueError: If the file lacks a weight or has one of another shape.
    """
    weights = _load_state_dict(path)
    wrong: list[str] = []
    loaded: set[str] = set()
    for name, target in _conv_and_norm_tensors(net):
        source = _torchvision_name(name)
        if source not in weights:
            if not source.endswith('num_batches_tracked'):
                wrong.append(f'{source} is missing')
            continue
        weight = weights[source]
        if source == 'conv1.weight' and weight.dim() == 4:
            weight = _inflate_stem(weight, net.tubelet_size)
        if weight.shape == target.shape:
            target.copy_(weight)
            loaded.add(source)
        else:
            wrong.append(
                f'{source} has shape {tuple(weights[source].shape)}, which does not fit {name} '
                f'{tuple(target.shape)}'
            )
    blocks = '-'.join(str(len(getattr(net, stage))) for stage in net.stages)
    kind = f"2D ResNet with {blocks} bottlenecks in torchvision's naming"
    _report(path, kind, wrong, loaded, weights.keys() - loaded)


def load_2d_swin_weights(net: 'SIFATransformer', path: str) -> None:
    """Load a 2D Swin's weights in the official naming into a SIFA-Transformer.

    The embedding's kernel is spread evenly over a tubelet's frames. Position tables of another
    window are resized, and repeated over the window's frames. The parts between frames stay.

    Args:
        net: The backbone.
        path: A path or URL.

    Raises:
        ValueError: If the file lacks a weight or has one of another shape.
    """
    weights = _load_state_dict(path)
    wrong: list[str] = []
    loaded: set[str] = set()
    for name, target in net.state_dict().items():
        if '.temporal.' in name or name.endswith('relative_position_index'):
            continue
        source = name.replace('norm3.', 'norm.') if name.startswith('norm3.') else name
        if source not in weights:
            if not (name.startswith('norm') and source == name):  # of earlier stages: fresh
                wrong.append(f'{source} is missing')
            continue
        weight = weights[source].float()
        if source == 'patch_embed.proj.weight' and weight.dim() == 4:
            frames = net.patch_size[0]
            weight = weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
        elif source.endswith('relative_position_bias_table'):
            weight = _resize_position_table(weight, net.window_size)
        if weight.shape == target.shape:
            target.copy_(weight)
            loaded.add(source)
        else:
            wrong.append(
                f'{source} has shape {tuple(weights[source].shape)}, which does not fit {name} '
                f'{tuple(target.shape)}'
            )
    blocks = '-'.join(map(str, net.depths))
    kind = f'2D Swin with {blocks} blocks and {net.embed_dims} channels in the official naming'
    _report(path, kind, wrong, loaded, weights.keys() - loaded)


def _resize_position_table(table: Tensor, window_size: tuple[int, int, int]) -> Tensor:
    """Fit a 2D position table ((2w-1)^2, heads) to a window of frames, rows and columns."""
    frames, *sides = (2 * size - 1 for size in window_size)
    side = round(len(table) ** 0.5)
    if side**2 == len(table) and sides != [side, side]:
        square = table.T.reshape(1, -1, side, side)
        table = F.interpolate(square, sides, mode='bicubic').flatten(2)[0].T
    return table.repeat(frames, 1)


def _report(path: str, kind: str, wrong: list[str], loaded: set[str], unused: set[str]) -> None:
    if wrong:
        more = f' and {len(wrong) - 10} more' if len(wrong) > 10 else ''
        raise ValueError(
            f'{path} does not hold the weights of a {kind}: {"; ".join(wrong[:10])}{more}'
        )
    print_log(
        f'loaded {len(loaded)} 2D weights from {path}; not used: {sorted(unused)}', logger='current'
    )


def _load_state_dict(path: str) -> dict[str, Tensor]:
    weights = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return weights.get('state_dict', weights.get('model', weights))


def _inflate_stem(weight: Tensor, tubelet_size: int) -> Tensor:
    slices = weight.new_zeros(*weight.shape[:2], tubelet_size, *weight.shape[2:])
    slices[:, :, tubelet_size // 2] = weight
    return slices.flatten(1, 2)


def _conv_and_norm_tensors(net: 'SIFANet') -> Iterator[tuple[str, Tensor]]:
    """Yield the name and tensor of every weight that a 2D ResNet has as well."""
    for name, module in net.named_modules():
        if isinstance(module, ConvModule):
            for role, part in (('conv', module.conv), ('bn', module.norm)):
                for key, tensor in part.state_dict().items():
                    yield f'{name}.{role}.{key}', tensor


def _torchvision_name(name: str) -> str:
    """Translate the name of a convolution's or its normalization's tensor.

    >>> _torchvision_name('layer4_dual.0.conv2.bn.weight')
    'layer4.0.bn2.weight'
    >>> _torchvision_name('layer2.0.downsample.conv.weight')
    'layer2.0.downsample.0.weight'
    """
    name = name.replace('_dual', '')
    if 'downsample' in name:
        return name.replace('.conv.', '.0.').replace('.bn.', '.1.')
    if '.bn.' in name:
        return name.replace('conv', 'bn').replace('.bn.', '.')
    return name.replace('.conv.', '.')
