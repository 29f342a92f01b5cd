"""Whether weights fit a model: those of a file that do not are an error instead of a log line."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from mmsifa.checkpoints.load import CheckpointError, load_file

# Of torchvision, timm, mmpretrain and MMAction2; a projection or a neck is none.
_CLASSIFIER = re.compile(
    r'(fc|head|head\.fc|head\.layers\.head|classifier)\.(weight|bias)|(cls_head|data_preprocessor)\..*'
)


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
        >>> from mmsifa.checkpoints import load_fitting_weights
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
