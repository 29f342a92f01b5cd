"""Models inside the wrappers of data-parallel training."""

from typing import Any

from mmengine.model import is_model_wrapper
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
