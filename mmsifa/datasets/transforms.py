# ruff: noqa: NPY002  (MMEngine seeds NumPy's global generator in each loader worker)
"""Clip augmentations: of the frames that MMAction2 decodes, and of the part they are chosen from.

Those of the SIFA recipes, on ``imgs``, draw their parameters once per call and apply them to every
frame, so that the motion between frames survives. They always apply: wrap them, as any other
transform, in MMCV's ``RandomApply`` to apply them with a probability::

    dict(type='RandomApply', prob=0.2, transforms=[dict(type='ClipGrayscale')])

Those of colours and blur also take a tensor of frames on any device; ``ClipAugmentation`` gives
them one.

The children of ``RandomApply`` are looked up in the default scope, so a config needs
``default_scope = 'mmaction'``, as MMAction2's own configs have.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional as F

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G and B (ITU-R BT.601)

Fill = tuple[int, ...]
Op = Callable[[Image.Image, float, Fill], Image.Image]


class ClipTransform(BaseTransform):
    """A transform of ``results['imgs']``, a list of uint8 RGB frames of shape (H, W, 3).

    Attributes:
        on_device: Whether it takes a tensor of frames, too.
    """

    on_device = True

    def transform(self, results: dict) -> dict:
        """Replace ``results['imgs']`` by the transformed frames.

        Args:
            results: Results of the pipeline so far; ``imgs`` is a list of uint8 RGB arrays of
                shape (H, W, 3), or a float tensor (..., 3, H, W) of values from 0 to 255.

        Returns:
            The same dict; ``imgs`` is a new list of new arrays, or a new tensor, of the same shape
            and dtype.

        Raises:
            ValueError: If a frame is not a uint8 array of shape (H, W, 3).
        """
        imgs = results['imgs']
        if isinstance(imgs, Tensor):
            results['imgs'] = self._transform_tensor(imgs)
            return results
        for img in imgs:
            if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
                raise ValueError(
                    f'{type(self).__name__} expects uint8 RGB frames of shape (H, W, 3), got '
                    f'{img.dtype} of shape {img.shape}; put it after the decoding of RGB frames '
                    'and before the transforms that normalise or format them'
                )
        results['imgs'] = self._transform_imgs(imgs)
        return results

    def _transform_imgs(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        raise NotImplementedError

    def _transform_tensor(self, imgs: Tensor) -> Tensor:
        raise NotImplementedError


@TRANSFORMS.register_module()
class RandomTemporalCrop(BaseTransform):
    """Take a random part of a video, out of which a step like ``UniformSample`` chooses frames.

    An action then begins earlier or later in a clip and is faster or slower. Put it between
    ``DecordInit`` and the step that chooses frames.

    Required keys are "total_frames" and "start_index", which are modified.

    Args:
        least: The shortest part, as a share of the video's frames; its length is drawn uniformly
            between that and the whole video, and where it begins. Default: 0.8.

    Raises:
        ValueError: If ``least`` is not above 0 and at most 1.

    Example:
        >>> video = RandomTemporalCrop(0.5)(dict(total_frames=100, start_index=0))
        >>> 50 <= video['total_frames'] <= 100 - video['start_index']
        True
    """

    def __init__(self, least: float = 0.8) -> None:
        if not 0 < least <= 1:
            raise ValueError(f'least must be above 0 and at most 1, got {least!r}')
        self.least = least

    def transform(self, results: dict) -> dict:
        """Change ``start_index`` and ``total_frames``.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.
        """
        total = results['total_frames']
        length = max(1, round(total * np.random.uniform(self.least, 1)))
        results['start_index'] += np.random.randint(total - length + 1)
        results['total_frames'] = length
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(least={self.least})'


@TRANSFORMS.register_module()
class ClipColorJitter(ClipTransform):
    """Change brightness, contrast, saturation and hue of every frame, in a random order.

    Brightness multiplies a frame, contrast moves it away from its mean grey or towards it,
    saturation its pixels from their own grey, and hue turns them in HSV, by the same factors for
    all frames. As in MMAction2's ``ColorJitter``, values are cut to 0 to 255 before the hue turns
    and at the end. So the first three commute, and those on one side of the hue are one linear map.

    Required keys are "imgs", added or modified keys are "imgs".

    Args:
        brightness: Its factor is drawn uniformly between 1 - ``brightness`` and 1 + ``brightness``.
            Default: 0, none.
        contrast: Likewise.
        saturation: Likewise.
        hue: The turn is drawn uniformly between -``hue`` and ``hue``, where 1 is once around the
            circle of colours, and rounded to its 256ths. Default: 0, none.

    Raises:
        ValueError: If one is not from 0 to 1, or ``hue`` not from 0 to 0.5.

    Example:
        >>> jitter = ClipColorJitter(brightness=0.4)
        >>> grey = jitter({'imgs': [np.full((1, 1, 3), 100, np.uint8)]})['imgs'][0]
        >>> bool(60 <= grey.min() == grey.max() <= 140)
        True
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        names = ('brightness', 'contrast', 'saturation', 'hue')
        ranges = (brightness, contrast, saturation, hue)
        for name, value, limit in zip(names, ranges, (1, 1, 1, 0.5), strict=True):
            if not 0 <= value <= limit:
                raise ValueError(f'{name} must be from 0 to {limit}, got {value!r}')
        self.ranges = ranges

    def _draw(self) -> tuple[np.ndarray, int, np.ndarray]:
        """Draw the factors before the hue turns, its turn in 256ths, and the factors after it."""
        *drawn, turn = (np.random.uniform(-value, value) for value in self.ranges)
        *places, place = np.random.permutation(4)
        factors, before = 1 + np.array(drawn), np.array(places) < place
        return np.where(before, factors, 1), round(256 * turn), np.where(before, 1, factors)

    def _transform_imgs(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        before, turn, after = self._draw()
        outputs = []
        for img in imgs:
            if (before != 1).any():
                img = _recolour(img, *before)
            if turn:
                hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
                hsv[..., 0] += np.uint8(turn % 256)
                img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
            if (after != 1).any() or not turn:
                img = _recolour(img, *after)
            outputs.append(img)
        return outputs

    def _transform_tensor(self, imgs: Tensor) -> Tensor:
        before, turn, after = self._draw()
        imgs = _recolour_tensor(imgs, *before.tolist()).clamp(0, 255)
        return _recolour_tensor(_turn_hue(imgs, turn / 256), *after.tolist()).clamp(0, 255)

    def __repr__(self) -> str:
        return '{}(brightness={}, contrast={}, saturation={}, hue={})'.format(
            type(self).__name__, *self.ranges
        )


def _recolour(img: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    matrix = saturation * np.eye(3) + (1 - saturation) * np.array(LUMINANCE)
    shift = (1 - contrast) * np.dot(LUMINANCE, cv2.mean(img)[:3])
    return cv2.transform(img, brightness * np.column_stack([contrast * matrix, [shift] * 3]))


def _recolour_tensor(imgs: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    grey = _grey(imgs)
    mean = grey.mean((-2, -1), keepdim=True)
    shift = contrast * (1 - saturation) * grey + (1 - contrast) * mean
    return brightness * (contrast * saturation * imgs + shift)


def _turn_hue(imgs: Tensor, turn: float) -> Tensor:
    red, green, blue = imgs.split(1, -3)
    largest, smallest = imgs.amax(-3, keepdim=True), imgs.amin(-3, keepdim=True)
    chroma = largest - smallest
    sixth = torch.where(
        largest == red,
        green - blue,
        torch.where(largest == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )  # of the circle, from red on, times chroma
    sixth = sixth / chroma.clamp(min=1e-6) + 6 * turn
    place = (sixth + torch.arange(5, 0, -2, device=imgs.device).view(3, 1, 1)) % 6
    return largest - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def _grey(imgs: Tensor) -> Tensor:
    red, green, blue = imgs.split(1, -3)
    return LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue


@TRANSFORMS.register_module()
class ClipGrayscale(ClipTransform):
    """Convert every frame to grey, kept as three equal channels.

    Grey is the luminance 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Required keys are "imgs", added or modified keys are "imgs".

    Example:
        >>> results = ClipGrayscale()({'imgs': [np.full((1, 1, 3), (255, 0, 0), np.uint8)]})
        >>> results['imgs'][0].tolist()
        [[[76, 76, 76]]]
    """

    def _transform_imgs(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        return [
            cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for img in imgs
        ]

    def _transform_tensor(self, imgs: Tensor) -> Tensor:
        return _grey(imgs).expand_as(imgs)

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class ClipGaussianBlur(ClipTransform):
    """Blur every frame with a Gaussian of one random width, cut off at three of it.

    Required keys are "imgs", added or modified keys are "imgs".

    Args:
        sigma: Lowest and highest standard deviation of the Gaussian, in pixels; one is drawn
            uniformly between them for each clip. Default: (0.1, 2.0).

    Raises:
        ValueError: If ``sigma`` is not a pair with 0 < lowest <= highest.

    Example:
        >>> img = np.zeros((3, 3, 3), np.uint8)
        >>> img[1, 1] = 255
        >>> results = ClipGaussianBlur(sigma=(1, 1))({'imgs': [img]})
        >>> bool(0 < results['imgs'][0][1, 1, 0] < 255)
        True
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0)) -> None:
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] < math.inf:
            raise ValueError(
                'sigma must be (lowest, highest) in pixels with 0 < lowest <= highest, '
                f'got {sigma!r}; for one fixed width give it twice'
            )
        self.sigma = tuple(sigma)

    def _draw(self) -> np.ndarray:
        """Draw the kernel of one clip, (taps, 1)."""
        low, high = self.sigma
        sigma = np.random.uniform(low, high)
        return cv2.getGaussianKernel(round(6 * sigma + 1) | 1, sigma, cv2.CV_32F)

    def _transform_imgs(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        kernel = self._draw()
        return [cv2.sepFilter2D(img, -1, kernel, kernel) for img in imgs]

    def _transform_tensor(self, imgs: Tensor) -> Tensor:
        taps = torch.from_numpy(self._draw()).to(imgs.device)
        reach = len(taps) // 2
        planes = F.pad(imgs.flatten(0, -3)[:, None], [reach] * 4, mode='reflect')
        return F.conv2d(F.conv2d(planes, taps[None, None]), taps.T[None, None]).view(imgs.shape)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sigma={self.sigma})'


def _affine(img: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, matrix, fillcolor=fill)


# Each operation takes its strength: 1 is the far end of its range, and a signed one also goes to
# -1. The affine matrices map output to input pixels, so a positive translation moves right, down.
_SIGNED_OPS: dict[str, Op] = {
    'ShearX': lambda img, s, fill: _affine(img, (1, 0.3 * s, 0, 0, 1, 0), fill),
    'ShearY': lambda img, s, fill: _affine(img, (1, 0, 0, 0.3 * s, 1, 0), fill),
    'TranslateX': lambda img, s, fill: _affine(
        img, (1, 0, -round(150 / 331 * img.width * s), 0, 1, 0), fill
    ),
    'TranslateY': lambda img, s, fill: _affine(
        img, (1, 0, 0, 0, 1, -round(150 / 331 * img.height * s)), fill
    ),
    'Rotate': lambda img, s, fill: img.rotate(30 * s, fillcolor=fill),
    'Brightness': lambda img, s, fill: ImageEnhance.Brightness(img).enhance(1 + 0.9 * s),
    'Color': lambda img, s, fill: ImageEnhance.Color(img).enhance(1 + 0.9 * s),
    'Contrast': lambda img, s, fill: ImageEnhance.Contrast(img).enhance(1 + 0.9 * s),
    'Sharpness': lambda img, s, fill: ImageEnhance.Sharpness(img).enhance(1 + 0.9 * s),
}
_UNSIGNED_OPS: dict[str, Op] = {
    'Identity': lambda img, s, fill: img,
    'Posterize': lambda img, s, fill: ImageOps.posterize(img, 8 - round(4 * s)),
    'Solarize': lambda img, s, fill: ImageOps.solarize(img, math.ceil(256 * (1 - s))),
    'AutoContrast': lambda img, s, fill: ImageOps.autocontrast(img),
    'Equalize': lambda img, s, fill: ImageOps.equalize(img),
}
_OPS = _SIGNED_OPS | _UNSIGNED_OPS


@TRANSFORMS.register_module()
class ClipRandAugment(ClipTransform):
    """RandAugment with one draw of the operations for all frames of a clip.

    `RandAugment: Practical automated data augmentation with a reduced search space
    <https://arxiv.org/abs/1909.13719>`_ draws operations uniformly, with replacement, and applies
    them in turn, all at the same strength ``magnitude / (num_magnitude_bins - 1)``:

    ==========================  =====================================================
    operation                   effect at strength 0 to 1
    ==========================  =====================================================
    Identity                    none
    ShearX, ShearY              shear by 0 to 0.3, either way
    TranslateX, TranslateY      shift by 0 to 150/331 of the side, either way
    Rotate                      turn by 0 to 30 degrees about the centre, either way
    Brightness, Color,          enhance by the factor 1 to 1.9 or 1 to 0.1
    Contrast, Sharpness
    Posterize                   keep 8 to 4 bits
    Solarize                    invert the values from 256 to 0 on
    AutoContrast, Equalize      the whole effect at every strength
    ==========================  =====================================================

    The way of a two-way operation is a fair coin, tossed once per operation and clip. The
    geometric operations take the nearest pixel. Contrast, AutoContrast and Equalize measure each
    frame by itself.

    Required keys are "imgs", added or modified keys are "imgs".

    Args:
        num_ops: Number of operations applied to each clip. Default: 2.
        magnitude: Strength, from 0 to ``num_magnitude_bins - 1``. Default: 27, of 30.
        num_magnitude_bins: Number of strengths, 0 included. Default: 31.
        fill: RGB value, each 0 to 255, of the pixels that come from outside the frame.
            Default: black, (0, 0, 0).
        ops: Names of the operations to draw from. Default: None, all 14 of the table.

    Raises:
        ValueError: If an argument is out of its range, or ``ops`` is empty or has an unknown
            name.

    Example:
        >>> augment = ClipRandAugment(num_ops=1, magnitude=30, ops=['Solarize'])
        >>> results = augment({'imgs': [np.full((1, 1, 3), (0, 100, 255), np.uint8)]})
        >>> results['imgs'][0].tolist()
        [[[255, 155, 0]]]
    """

    on_device = False  # Pillow's operations

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 27,
        num_magnitude_bins: int = 31,
        fill: Sequence[int] = (0, 0, 0),
        ops: Sequence[str] | None = None,
    ) -> None:
        if num_ops < 1:
            raise ValueError(f'num_ops must be 1 or more, got {num_ops}')
        if num_magnitude_bins < 2:
            raise ValueError(f'num_magnitude_bins must be 2 or more, got {num_magnitude_bins}')
        if not 0 <= magnitude < num_magnitude_bins:
            raise ValueError(
                'magnitude must be from 0 to num_magnitude_bins - 1 = '
                f'{num_magnitude_bins - 1}, got {magnitude}'
            )
        if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
            raise ValueError(f'fill must be 3 values (R, G, B) from 0 to 255, got {fill!r}')
        ops = tuple(_OPS if ops is None else ops)
        if not ops or not set(ops) <= set(_OPS):
            raise ValueError(f'ops must be one or more of {", ".join(_OPS)}; got {ops!r}')
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.num_magnitude_bins = num_magnitude_bins
        self.fill = tuple(fill)
        self.ops = ops

    def _draw(self) -> list[tuple[Op, float]]:
        """Draw the operations of one clip and their signed strengths."""
        strength = self.magnitude / (self.num_magnitude_bins - 1)
        draw = []
        for index in np.random.randint(len(self.ops), size=self.num_ops):
            name = self.ops[index]
            sign = -1 if name in _SIGNED_OPS and np.random.rand() < 0.5 else 1
            draw.append((_OPS[name], sign * strength))
        return draw

    def _transform_imgs(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        draw = self._draw()
        outputs = []
        for img in imgs:
            output = Image.fromarray(img)
            for op, strength in draw:
                output = op(output, strength, self.fill)
            outputs.append(np.array(output))
        return outputs

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}('
            f'num_ops={self.num_ops}, '
            f'magnitude={self.magnitude}, '
            f'num_magnitude_bins={self.num_magnitude_bins}, '
            f'fill={self.fill}, '
            f'ops={self.ops})'
        )
