"""Weights from files, with an error instead of silence where they do not fit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmsifa.models.naming import to_official_swin, to_torchvision_resnet, torchvision_name

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
    """Load the weights of a 2D ResNet of torchvision, timm or mmpretrain into a SIFA-Net.

    The stem's middle frame (2 of 4) gets the 2D kernel and the others zeros; both fourth stages
    get the same weights.

    Args:
        net: The backbone.
        path: A path, a URL or ``'torchvision://resnet50'``.

    Raises:
        ValueError: If the file lacks a weight or has one of another shape.
    """
    weights = to_torchvision_resnet(_load_state_dict(path))
    wrong: list[str] = []
    loaded: set[str] = set()
    for name, target in _conv_and_norm_tensors(net):
        source = torchvision_name(name.replace('_dual', ''))
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
    """Load the weights of a 2D Swin into a SIFA-Transformer.

    They have the official names or those of torchvision, timm or mmpretrain. The embedding's
    kernel is spread evenly over a tubelet's frames. Position tables of another window are resized,
    and repeated over the window's frames. The parts between frames stay.

    Args:
        net: The backbone.
        path: A path or URL.

    Raises:
        ValueError: If the file lacks a weight or has one of another shape.
    """
    weights, naming = to_official_swin(_load_state_dict(path))
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
    kind = f'2D Swin with {blocks} blocks and {net.embed_dims} channels in {naming} naming'
    if naming != 'the official':
        kind += ' (here in the official one)'
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
        raise ValueError(f'{path} does not hold the weights of a {kind}: {first_ten(wrong)}')
    print_log(
        f'loaded {len(loaded)} 2D weights from {path}; not used: {sorted(unused)}', logger='current'
    )


def first_ten(wrong: Sequence[str]) -> str:
    """Join what is wrong into one line; count what comes after the first ten."""
    more = f' and {len(wrong) - 10} more' if len(wrong) > 10 else ''
    return '; '.join(wrong[:10]) + more


def state_dict_in(checkpoint: Mapping) -> Mapping[str, Tensor]:
    """Return the weights in a checkpoint: its state_dict, its model, or itself.

    Raises:
        ValueError: If that is no dict.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'expected a dict of weights, got {type(checkpoint).__name__}')
    return checkpoint.get('state_dict', checkpoint.get('model', checkpoint))


def _load_state_dict(path: str) -> Mapping[str, Tensor]:
    return state_dict_in(CheckpointLoader.load_checkpoint(path, map_location='cpu'))


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
