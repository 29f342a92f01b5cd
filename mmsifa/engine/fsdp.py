"""How a network is cut for FullyShardedDataParallel (FSDP)."""

from mmengine.registry import FUNCTIONS  # MMAction2's cannot be read: it names no real module
from torch import nn


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
