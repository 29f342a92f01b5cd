"""Wrappers of models for data-parallel training: how FSDP cuts a network, and what is inside."""

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.registry import FUNCTIONS  # MMAction2's cannot be read: it names no real module
from torch import nn


def without_wrapper(model: nn.Module) -> Any:
    """Return the model inside a data-parallel wrapper, such as DDP or FSDP; others as they are.

    Args:
        model: A model, such as ``runner.model``.

    Returns:
        The model that the wrapper holds, or the model itself.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1)
        >>> without_wrapper(nn.DataParallel(model)) is without_wrapper(model) is model
        True
    """
    return model.module if is_model_wrapper(model) else model


@FUNCTIONS.register_module()
def wrap_blocks(
    module: nn.Module,
    recurse: bool,
    nonwrapped_numel: int,
    blocks: tuple[str, ...] = ('SIFATransformerBlock',),
) -> bool:
    """Auto-wrap policy of FSDP that gathers the parameters of one block at a time.

    PyTorch's own policies go by size, which cuts at stages whose parts are called one by one, or by
    classes, which a config cannot name.

    Args:
        module: A module of the network.
        recurse: Whether the question is if modules within it may be wrapped; they may.
        nonwrapped_numel: Its number of parameters, which does not matter.
        blocks: Names of the classes to wrap.

    Returns:
        Whether to wrap the module.

    Example:
        >>> from torch import nn
        >>> wrap_blocks(nn.Linear(2, 2), recurse=False, nonwrapped_numel=6, blocks=('Linear',))
        True
    """
    return recurse or type(module).__name__ in blocks
