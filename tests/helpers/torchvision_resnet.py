"""Weights of a 2D ResNet as torchvision names them."""

import torch


def torchvision_weights(blocks=(3, 4, 6, 3), width=64) -> dict[str, torch.Tensor]:
    """Random weights of a 2D ResNet in torchvision's naming, as its documentation lists them."""
    weights = {}

    def conv(name, outs, ins, size):
        weights[f'{name}.weight'] = (
            torch.randn(outs, ins, size, size) * (outs * size * size) ** -0.5
        )

    def norm(name, channels):
        weights[f'{name}.weight'] = torch.rand(channels) + 0.5
        weights[f'{name}.bias'] = torch.randn(channels) * 0.1
        weights[f'{name}.running_mean'] = torch.randn(channels) * 0.1
        weights[f'{name}.running_var'] = torch.rand(channels) + 0.5
        weights[f'{name}.num_batches_tracked'] = torch.tensor(7)

    conv('conv1', width, 3, 7)
    norm('bn1', width)
    ins = width
    for i, count in enumerate(blocks):
        planes = width * 2**i
        for j in range(count):
            block = f'layer{i + 1}.{j}'
            for k, sizes in enumerate(
                [(planes, ins, 1), (planes, planes, 3), (4 * planes, planes, 1)], start=1
            ):
                conv(f'{block}.conv{k}', *sizes)
                norm(f'{block}.bn{k}', sizes[0])
            if j == 0:
                conv(f'{block}.downsample.0', 4 * planes, ins, 1)
                norm(f'{block}.downsample.1', 4 * planes)
            ins = 4 * planes
    weights['fc.weight'], weights['fc.bias'] = torch.randn(10, ins), torch.randn(10)
    return weights
