"""Weights from files, with an error instead of silence where they do not fit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

if TYPE_CHECKING:
    from mmsifa.models.sifa_net import SIFANet


def check_some_weight_fits(net: 'SIFANet', path: str, prefix: str = '') -> None:
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
    if not any(prefix + name in names for name in net.state_dict()):
        raise ValueError(
            f"no weight in {path} belongs to this backbone: expected names like '{prefix}"
            f"conv1.conv.weight', got {sorted(names)[:3]}. For the weights of a whole recognizer "
            "set prefix='backbone.' in init_cfg; 2D weights in torchvision's naming go into the "
            "argument 'pretrained'"
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
    wrong, loaded = [], set()
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
    if wrong:
        blocks = '-'.join(str(len(getattr(net, stage))) for stage in net.stages)
        more = f' and {len(wrong) - 10} more' if len(wrong) > 10 else ''
        raise ValueError(
            f'{path} does not hold the weights of a 2D ResNet with {blocks} bottlenecks in '
            f"torchvision's naming: {'; '.join(wrong[:10])}{more}"
        )
    print_log(
        f'loaded {len(loaded)} 2D weights from {path}; not used: {sorted(weights.keys() - loaded)}',
        logger='current',
    )


def _load_state_dict(path: str) -> dict[str, Tensor]:
    weights = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return weights.get('state_dict', weights)


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
