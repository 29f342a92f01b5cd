"""The implementations of the op and the choice among them."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mmsifa.ops import cpu, reference


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
    for module in (cpu, reference)
}


def choose(name: str | None, query: Tensor) -> Backend:
    """Return the backend ``name``, or the fastest that takes ``query``.

    Raises:
        ValueError: If there is no backend of this name.
        RuntimeError: If it cannot take ``query``.
    """
    if name is None:
        return next(
            backend
            for backend in BACKENDS.values()
            if (backend.automatic_on is None or query.device.type in backend.automatic_on)
            and backend.unsupported_reason(query) is None
        )
    if name not in BACKENDS:
        raise ValueError(f'backend must be one of {list(BACKENDS)} or None, got {name!r}')
    reason = BACKENDS[name].unsupported_reason(query)
    if reason is not None:
        raise RuntimeError(f'backend {name!r} cannot take these inputs: {reason}')
    return BACKENDS[name]
