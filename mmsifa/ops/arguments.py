"""The arguments of the op and of modules: options, memory layout, and checks of what came."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor


class AttentionOptions(NamedTuple):
    """What inter-frame attention computes from its three tensors: the options of the public op.

    Attributes:
        kernel_size: Side K of the window, odd.
        dilation: Distance of neighbouring taps in pixels.
        num_heads: Number of attention heads; it divides the channels.
        scale: Factor of the weights.
        softmax: Whether the weights of a position's taps go through a softmax.
    """

    kernel_size: int
    dilation: int
    num_heads: int
    scale: float
    softmax: bool


def new_channels_last(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate a tensor (N, T, C, H, W) whose channels are next to each other.

    Args:
        like: A tensor of the shape.
        dtype: Defaults to that of ``like``.
    """
    dtype = like.dtype if dtype is None else dtype
    return torch.empty_permuted(like.shape, (0, 1, 3, 4, 2), dtype=dtype, device=like.device)


def has_adjacent_channels(x: Tensor) -> bool:
    """Whether a position's channels are next to each other, as also in a slice of frames."""
    return x.stride(2) == 1 or x.shape[2] == 1


def check_integers(least: int = 1, most: int | None = None, /, **numbers: Any) -> None:
    """Refuse what is no integer in a range; True and False are none.

    Args:
        least: The smallest one. Defaults to 1.
        most: The largest one. Defaults to None: there is none.
        **numbers: The arguments by name.

    Raises:
        ValueError: If one is something else; it names the first.

    Example:
        >>> check_integers(kernel_size=3, dilation=0)
        Traceback (most recent call last):
        ValueError: dilation must be a positive integer, got 0
    """
    kind = 'a positive integer' if least == 1 else f'an integer of at least {least}'
    if most is not None:
        kind = f'{least} to {most}'
    for name, number in numbers.items():
        if not _is_integer(number, least, most):
            raise ValueError(f'{name} must be {kind}, got {number!r}')


def check_integer_lists(count: int | None = None, /, **lists: Any) -> None:
    """Refuse what is no sequence of positive integers, of so many if a count is given."""
    kind = 'positive integers' if count is None else f'{count} positive integers'
    for name, numbers in lists.items():
        right = _is_sequence(numbers) and all(map(_is_integer, numbers))
        if not right or len(numbers) != (count or len(numbers)):
            raise ValueError(f'{name} must be {kind}, got {numbers!r}')


def check_out_indices(out_indices: Any, stages: int) -> None:
    """Refuse what are no stages, each once and in the order in which they are returned."""
    indices = tuple(out_indices) if _is_sequence(out_indices) else ()
    if not indices or not all(_is_integer(index, 0, stages - 1) for index in indices):
        raise ValueError(
            f'out_indices must be stages out of 0 to {stages - 1}, got {indices or out_indices!r}'
        )
    if sorted(set(indices)) != list(indices):
        raise ValueError(f'out_indices must ascend, as stages are returned, got {indices!r}')


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f'{name} must be True or False, got {flag!r}')


def check_rates(**rates: Any) -> None:
    """Refuse what is no share of what is dropped."""
    for name, rate in rates.items():
        if not _is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f'{name} must be a number of at least 0 and below 1, got {rate!r}')


def check_positive(**numbers: Any) -> None:
    """Refuse what is no positive, finite number."""
    for name, number in numbers.items():
        if not _is_number(number) or not 0 < number < float('inf'):
            raise ValueError(f'{name} must be a positive number, got {number!r}')


def check_configs(**configs: Any) -> None:
    """Refuse what is no config of something to build."""
    for name, config in configs.items():
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ValueError(f"{name} must be a config with a 'type', got {config!r}")


def is_positive_integer(value: Any) -> bool:
    """Return whether a value is an integer from 1 on; True is none."""
    return _is_integer(value)


def _is_integer(value: Any, least: int = 1, most: int | None = None) -> bool:
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    return integer and value >= least and (most is None or value <= most)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
