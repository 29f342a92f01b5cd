"""The implementations of the op and the choice among them."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from mmsifa.ops import cpu, mmcv, reference, triton


class Backend(NamedTuple):
    """One implementation of the op.

    Attributes:
        forward: Takes the checked arguments of :func:`mmsifa.ops.inter_frame_attention` by position
            and returns the output.
        backward: Takes the output's gradient and the same arguments and returns the gradients of
            query, value and offset.
        unsupported_reason: Takes the query and says why the two cannot take it and how to get what
            is missing, or None if they can.
        automatic_on: Device types where it is chosen without being named; None means all.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    unsupported_reason: Callable[[Tensor], str | None]
    automatic_on: tuple[str, ...] | None


#: Backends by name, fastest first. The last one takes everything, so a choice always ends.
BACKENDS: dict[str, Backend] = {
    module.__name__.rpartition('.')[-1]: Backend(
        module.forward, module.backward, module.unsupported_reason, module.AUTOMATIC_ON
    )
    for module in (triton, cpu, mmcv, reference)
}


def check_name(name: str | None) -> None:
    """Refuse what is neither a backend's name nor None.

    Raises:
        ValueError: If there is no backend of this name.
    """
    if name is not None and name not in list(BACKENDS):
        raise ValueError(f'backend must be one of {list(BACKENDS)} or None, got {name!r}')


def choose(name: str | None, query: Tensor) -> Backend:
    """Return the backend ``name``, or the fastest that takes ``query``.

    Raises:
        ValueError: If there is no backend of this name.
        RuntimeError: If it cannot take ``query``.
    """
    if name is None:
        return _choose_automatically(query)
    check_name(name)
    reason = BACKENDS[name].unsupported_reason(query)
    if reason is not None:
        raise RuntimeError(f'backend {name!r} cannot take these inputs: {reason}')
    return BACKENDS[name]


def _choose_automatically(query: Tensor) -> Backend:
    reasons = []
    for name, backend in BACKENDS.items():
        if backend.automatic_on is None:
            break
        if query.device.type in backend.automatic_on:
            reason = backend.unsupported_reason(query)
            if reason is None:
                return backend
            reasons.append(f'{name}: {reason}')
    if reasons:
        warn_of_slow_choice('; '.join(reasons))
    return backend


@lru_cache
def warn_of_slow_choice(reasons: str) -> None:
    """Say once why the slow reference runs where a faster backend might."""
    warnings.warn(
        f'inter_frame_attention runs on the slow reference, since no other backend can: {reasons}',
        stacklevel=2,
    )
