"""How 2D backbones lay out feature maps: which axes of a tensor are rows, columns and channels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class FeatureLayout(NamedTuple):
    """The layout of the feature maps that a module returns.

    Attributes:
        axes: ``'NCHW'``, ``'NHWC'`` or ``'NLC'``, whose L tokens are the rows of an image one after
            the other.
        channels: Number of channels C.
        num_prefix_tokens: Tokens of NLC before those of the image.
    """

    axes: str
    channels: int
    num_prefix_tokens: int = 0

    def to_nhwc(self, x: Tensor, img_size: tuple[int, int]) -> Tensor:
        """Bring features of images of ``img_size`` pixels into the layout (N, H, W, C)."""
        if self.axes == 'NCHW':
            return x.permute(0, 2, 3, 1)
        if self.axes == 'NHWC':
            return x
        tokens = x[:, self.num_prefix_tokens :]
        sides = next((s for s in _map_sizes(img_size) if s[0] * s[1] == tokens.shape[1]), None)
        if sides is None:
            raise ValueError(
                f'{x.shape[1]} tokens, {self.num_prefix_tokens} of them before the map, are no map '
                f'of a frame of {img_size[0]} x {img_size[1]} pixels'
            )
        return tokens.unflatten(1, sides)

    def from_nhwc(self, maps: Tensor, x: Tensor) -> Tensor:
        """Bring maps (N, H, W, C) back into this layout, with the prefix tokens of ``x``."""
        if self.axes == 'NCHW':
            return maps.permute(0, 3, 1, 2)
        if self.axes == 'NHWC':
            return maps
        return torch.cat([x[:, : self.num_prefix_tokens], maps.flatten(1, 2)], dim=1)


def find_layout(
    x: object, num_images: int, img_size: tuple[int, int], num_prefix_tokens: int = 0
) -> FeatureLayout | None:
    """Find out how a module's output lays out feature maps.

    Args:
        x: The output.
        num_images: Number of images that it was computed from.
        img_size: Their height and width in pixels.
        num_prefix_tokens: Tokens before those of the image, where it is tokens.

    Returns:
        The layout, or None where the output is not the features of more than one position.

    Raises:
        ValueError: If two layouts fit.

    Example:
        >>> import torch
        >>> find_layout(torch.empty(2, 56, 64, 96), num_images=2, img_size=(224, 256))
        FeatureLayout(axes='NHWC', channels=96, num_prefix_tokens=0)
    """
    if not isinstance(x, Tensor) or x.dim() not in (3, 4) or len(x) != num_images:
        return None
    sizes = set(_map_sizes(img_size))
    if x.dim() == 3:
        if x.shape[1] - num_prefix_tokens in {h * w for h, w in sizes}:
            return FeatureLayout('NLC', x.shape[2], num_prefix_tokens)
        return None
    first, last = tuple(x.shape[2:]) in sizes, tuple(x.shape[1:3]) in sizes
    if first and last:
        raise ValueError(
            f'features of shape {tuple(x.shape)}, of frames of {tuple(img_size)} pixels, may be '
            '(N, C, H, W) or (N, H, W, C): try another img_size, with different sides'
        )
    if first:
        return FeatureLayout('NCHW', x.shape[1])
    return FeatureLayout('NHWC', x.shape[3]) if last else None


def _map_sizes(img_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the sizes of an image's maps of more than one position, rounded up or down."""
    height, width = img_size
    for stride in range(1, max(img_size)):
        for size in (
            (-(-height // stride), -(-width // stride)),
            (height // stride, width // stride),
        ):
            if size[0] * size[1] > 1:
                yield size
