"""Which submodules of a 2D backbone return feature maps, and which of their axes are what."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsifa.ops.arguments import check_integer_lists, check_integers

# Positions that convolutions without padding may cost a map.
_MAX_BORDER = 4


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


def fitting_layouts(
    x: object, num_images: int, img_size: tuple[int, int], num_prefix_tokens: int = 0
) -> list[FeatureLayout]:
    """Return the layouts in which a module's output may hold feature maps.

    Args:
        x: The output.
        num_images: Number of images that it was computed from.
        img_size: Their height and width in pixels.
        num_prefix_tokens: Tokens before those of the image, where it is tokens.

    Returns:
        None of them where the output is not the features of more than one position, and two where
        its channels cannot be told from its rows and columns.

    Example:
        >>> import torch
        >>> fitting_layouts(torch.empty(2, 56, 64, 96), num_images=2, img_size=(224, 256))
        [FeatureLayout(axes='NHWC', channels=96, num_prefix_tokens=0)]
    """
    if not isinstance(x, Tensor) or x.dim() not in (3, 4) or len(x) != num_images:
        return []
    if x.dim() == 3:
        lengths = {h * w for h, w in _map_sizes(img_size)}
        fits = x.shape[1] - num_prefix_tokens in lengths
        return [FeatureLayout('NLC', x.shape[2], num_prefix_tokens)] if fits else []
    sizes = {
        (height - border, width - border)
        for height, width in _map_sizes(img_size)
        for border in range(_MAX_BORDER + 1)
        if min(height, width) > border and max(height, width) > border + 1
    }
    layouts = []
    if tuple(x.shape[2:]) in sizes:
        layouts.append(FeatureLayout('NCHW', x.shape[1]))
    if tuple(x.shape[1:3]) in sizes:
        layouts.append(FeatureLayout('NHWC', x.shape[3]))
    return layouts


def _map_sizes(img_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the sizes of an image's maps of more than one position, rounded up or down."""
    height, width = img_size
    for stride in range(1, max(img_size)):
        up = (-(-height // stride), -(-width // stride))
        down = (height // stride, width // stride)
        yield from (size for size in (up, down) if size[0] * size[1] > 1)


class TrialRun:
    """A run of a 2D backbone on a few images, which shows what its submodules return.

    The backbone's weights, statistics, modes and the random state stay as they are.

    Args:
        backbone: The backbone.
        num_images: Number of images.
        in_channels: Their channels.
        img_size: Their height and width in pixels, one number if they are the same.
        num_prefix_tokens: Tokens before those of an image, where features are tokens.

    Raises:
        ValueError: If an argument is wrong or the backbone does not take such images.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_images: int,
        in_channels: int,
        img_size: int | tuple[int, int],
        num_prefix_tokens: int = 0,
    ) -> None:
        check_integers(in_channels=in_channels)
        check_integers(0, num_prefix_tokens=num_prefix_tokens)
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        check_integer_lists(2, img_size=img_size)
        self.num_images = num_images
        self.img_size = img_size
        self.num_prefix_tokens = num_prefix_tokens
        self.outputs: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        handles = [
            module.register_forward_hook(self._recorder(name))
            for name, module in backbone.named_modules()
            if name
        ]
        modes = {module: module.training for module in backbone.modules()}
        backbone.eval()
        like = next(backbone.parameters(), torch.zeros(()))
        try:
            with torch.no_grad():
                self.returned = backbone(like.new_zeros(num_images, in_channels, *img_size))
        except Exception as error:
            raise ValueError(
                f'the backbone failed in a trial run with {num_images} frames of {img_size[0]} x '
                f'{img_size[1]} pixels: {error}. If it takes one size only, name that: img_size=224'
            ) from error
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode

    def _recorder(self, name: str) -> Callable:
        def record(module: nn.Module, args: tuple, output: Any) -> None:
            several = isinstance(output, tuple | list) and output
            self.outputs[name] = output[0] if several else output
            self.calls[name] += 1

        return record

    def backbone_layouts(self) -> list[FeatureLayout]:
        """Return the layouts of the backbone's own feature maps.

        Raises:
            ValueError: If it returns something else.
        """
        maps = feature_maps(self.returned)
        return [self._layout('the backbone', output) for output in maps]

    def submodule_layout(self, name: str) -> FeatureLayout:
        """Return the layout of the feature maps that a submodule returns.

        Raises:
            ValueError: If it does not return one feature map.
        """
        if self.calls[name] > 1:
            raise ValueError(
                f'{name} is called {self.calls[name]} times for a frame, expected once. '
                f'{self.describe_found()}'
            )
        return self._layout(name, self.outputs.get(name))

    def _layout(self, name: str, output: Any) -> FeatureLayout:
        layouts = self._layouts(output)
        if len(layouts) == 1:
            return layouts[0]
        height, width = self.img_size
        if layouts:
            raise ValueError(
                f'{name} returns {_describe(output)} for frames of {height} x {width} pixels: that '
                'may be (N, C, H, W) or (N, H, W, C), try an img_size with other sides'
            )
        raise ValueError(
            f'{name} returns no feature map but {_describe(output)} for {self.num_images} frames '
            f'of {height} x {width} pixels. {self.describe_found()}. Where other tokens precede '
            f'those of an image, set num_prefix_tokens, which is {self.num_prefix_tokens}'
        )

    def _layouts(self, output: Any) -> list[FeatureLayout]:
        return fitting_layouts(output, self.num_images, self.img_size, self.num_prefix_tokens)

    def describe_found(self) -> str:
        """List the submodules with feature maps, without those inside of numbered submodules."""
        names = [name for name, output in self.outputs.items() if self._layouts(output)]
        patterns = dict.fromkeys(
            '.'.join('*' if part.isdigit() else part for part in name.split('.')) for name in names
        )
        kept = [p for p in patterns if p.endswith('*') or '*' not in p]
        return f'Feature maps come from {", ".join(kept) or "none of its submodules"}'


def feature_maps(output: Any) -> list[Any]:
    """Return the feature maps in a backbone's output, of whatever library."""
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, 'feature_maps'):  # backbones of transformers
        return list(output.feature_maps)
    if hasattr(output, 'last_hidden_state'):  # its other models
        return [output.last_hidden_state]
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else [output]


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f'a tensor of shape {tuple(output.shape)}'
    return 'nothing, since it is not called' if output is None else f'a {type(output).__name__}'
