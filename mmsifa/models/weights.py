"""Weights from files, with an error instead of silence where they do not fit."""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from mmaction.models.backbones import ResNet
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmsifa.checkpoints.load import CheckpointError
from mmsifa.models.naming import to_official_swin, to_torchvision_resnet, torchvision_name

if TYPE_CHECKING:
    from mmsifa.models.sifa_net import SIFANet
    from mmsifa.models.sifa_transformer import SIFATransformer

# Of torchvision, timm, mmpretrain and MMAction2; a projection or a neck is none.
_CLASSIFIER = re.compile(
    r'(fc|head|head\.fc|head\.layers\.head|classifier)\.(weight|bias)|(cls_head|data_preprocessor)\..*'
)
_INIT_CFG = "pretrained=None and init_cfg=dict(type='Pretrained', checkpoint={})"


def load_2d_weights(net: 'SIFANet | ResNet', path: str) -> None:
    """Load the weights of a 2D ResNet of torchvision, timm or mmpretrain into a SIFA-Net.

    The stem's middle frame (2 of 4) gets the 2D kernel and the others zeros; both fourth stages
    get the same weights.

    Args:
        net: The backbone, or a 2D ResNet of MMAction2.
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


def load_2d_swin_weights(net: 'SIFATransformer', path: str) -> None:
    """Load the weights of a 2D Swin into a SIFA-Transformer.

    They have the official names or those of torchvision, timm or mmpretrain. The embedding's
    kernel is spread evenly over a tubelet's frames. Position tables of another window are resized,
    and repeated over the window's frames. The parts between frames stay.

    Args:
        net: The backbone.
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


def without_place(unused: Iterable[str], left_out: tuple[str, ...]) -> list[str]:
    """Name the weights of a file that a network should have used.

    Args:
        unused: Names of those that it did not.
        left_out: What the names of those start with that the network is to do without.

    Returns:
        The names of those that are neither left out nor of a classifier.
    """
    return [n for n in unused if not (_CLASSIFIER.fullmatch(n) or n.startswith(left_out))]


def load_fitting_weights(model: nn.Module, path: str) -> None:
    """Load the weights of a recognizer, all of them and no others.

    MMEngine's and MMAction2's ``load_checkpoint`` and inferencers only log what does not fit.

    Args:
        model: The recognizer.
        path: A path or URL of a checkpoint.

    Raises:
        CheckpointError: If the file is refused or holds the weights of another model.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from mmsifa.models.weights import load_fitting_weights
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save(torch.nn.Linear(2, 1).state_dict(), file.name)
        ...     load_fitting_weights(torch.nn.Linear(1, 1), file.name)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmsifa.checkpoints.load.CheckpointError: refused ... is (1, 2), expected (1, 1)); ...
    """
    checkpoint = load_file(path)
    check_fit(model, checkpoint, path)
    model.load_state_dict(_recognizer_weights(checkpoint), strict=False)


def check_fit(
    model: nn.Module,
    checkpoint: Mapping,
    path: str | None,
    retrained: str | None = None,
    unused: str | None = None,
) -> list[str]:
    """Refuse the weights of another model.

    Counters of batches may be missing; statistics of the data preprocessor are not needed, nor is a
    classifier where the model has none.

    Args:
        model: The model that shall get the weights.
        checkpoint: Its names may start with ``module.``.
        path: Where the checkpoint comes from, for the message.
        retrained: Weights whose name starts with this need not fit. Defaults to None: all must.
        unused: Weights whose name starts with this may be in the checkpoint alone. Defaults to
            None: the model must have all.

    Returns:
        What does not fit and need not, in words.

    Raises:
        CheckpointError: If names or shapes differ. The message counts and names them.
    """
    own = without_module(model.state_dict())
    if not own:
        return []  # a process of FSDP: only the first one gathers the weights
    weights = _recognizer_weights(checkpoint)
    missing = [n for n in own if n not in weights and not n.endswith('num_batches_tracked')]
    needless = ['data_preprocessor.', *([] if unused is None else [unused])]
    if not any(name.startswith('cls_head.') for name in own):
        needless.append('cls_head.')  # features are extracted
    unknown = [n for n in weights if n not in own and not n.startswith(tuple(needless))]
    shapes = {
        name: f'{name} is {_shape(weights[name])}, expected {tuple(own[name].shape)}'
        for name in own
        if name in weights and _shape(weights[name]) != tuple(own[name].shape)
    }
    kinds = {
        name: f'{name} is {kind_of(weights[name])}, expected {own[name].dtype}'
        for name in own
        if name in weights and name not in shapes and not same_kind(weights[name], own[name])
    }
    described = shapes | kinds

    def split(names: Iterable[str]) -> tuple[list[str], list[str]]:
        free = [n for n in names if retrained is not None and n.startswith(retrained)]
        return [n for n in names if n not in free], free

    parts = {
        'missing': split(missing), 'unknown': split(unknown),
        'of another shape': split(shapes), 'of another type': split(kinds),
    }  # fmt: skip
    wrong = [
        f'{len(names)} {what} ({first_three([described.get(name, name) for name in names])})'
        for what, (names, _) in parts.items()
        if names
    ]
    if wrong:
        advice = 'give the config that it was trained with'
        if retrained is not None:
            advice = (
                f'expected those of all but {retrained or "nothing"}: weights of a backbone alone '
                'go into its init_cfg or pretrained'
            )
        raise CheckpointError(
            f'refused to load the checkpoint{f" {path}" if path else ""}: it holds the weights of '
            f'another model, since of {len(own)} weights {", ".join(wrong)}; {advice}'
        )
    return [
        f'{described.get(name, name)} ({what})'
        for what, (_, free) in parts.items()
        for name in free
    ]


def _recognizer_weights(checkpoint: Mapping) -> dict[str, Tensor]:
    return without_module(state_dict_in(checkpoint, keys=('state_dict',)))


def _shape(weight: object) -> tuple[int, ...] | str:
    return tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__


def kind_of(weight: object) -> str:
    """Name a weight's dtype, or the class of what is no tensor."""
    return str(weight.dtype) if isinstance(weight, Tensor) else type(weight).__name__


def same_kind(weight: object, target: Tensor) -> bool:
    """Return whether both are floats or both are none: of others, copies would lose something."""
    return isinstance(weight, Tensor) and weight.is_floating_point() == target.is_floating_point()


def first_three(names: Sequence[str]) -> str:
    """Join the first three names; dots stand for the others."""
    return ', '.join([*names[:3], *(['...'] if len(names) > 3 else [])])


def first_ten(wrong: Sequence[str]) -> str:
    """Join what is wrong into one line; count what comes after the first ten."""
    more = f' and {len(wrong) - 10} more' if len(wrong) > 10 else ''
    return '; '.join(wrong[:10]) + more


def state_dict_in(
    checkpoint: Mapping, keys: Sequence[str] = ('state_dict', 'model')
) -> Mapping[str, Tensor]:
    """Return the weights in a checkpoint.

    Args:
        checkpoint: Weights, or what holds them.
        keys: Under which they may be, the first one first; else the checkpoint is the weights.

    Returns:
        The weights by name.

    Raises:
        ValueError: If they are no dict.
    """
    weights, where = checkpoint, ''
    if isinstance(checkpoint, Mapping):
        for key in keys:
            if key in checkpoint:
                weights, where = checkpoint[key], f' as its {key}'
                break
    if not isinstance(weights, Mapping):
        raise ValueError(
            f'expected a checkpoint with a dict of weights{where}, got {type(weights).__name__}'
        )
    return weights


def without_module(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away ``module.``, which a data-parallel model puts before its weights' names."""
    return {str(name).removeprefix('module.'): weight for name, weight in weights.items()}


def load_file(path: str) -> Mapping:
    """Read a checkpoint onto the CPU."""
    return CheckpointLoader.load_checkpoint(path, map_location='cpu')


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
