"""Data pipeline: clip augmentations in MMAction2's ``TRANSFORMS`` registry."""

from .transforms import ClipGaussianBlur, ClipGrayscale, ClipRandAugment

__all__ = ['ClipGaussianBlur', 'ClipGrayscale', 'ClipRandAugment']
