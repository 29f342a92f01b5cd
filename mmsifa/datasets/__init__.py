"""Data: checked data sets, drawn scenes and clip augmentations, in MMAction2's registries."""

from mmsifa.installation import require_mmaction2

require_mmaction2('mmsifa.datasets')

from .annotations import AnnotationError, annotation_lines, read_annotations
from .checked import (
    CheckedRawframeDataset,
    CheckedVideoDataset,
    FaultTolerant,
    FaultTolerantRawframeDataset,
    FaultTolerantVideoDataset,
    UpstreamDecordDecode,
    UpstreamDecordInit,
)
from .class_folders import ClassFolders, split_class_folders, write_lists
from .clip_augmentation import ClipAugmentation
from .scenes import Scene, draw_sprite, draw_texture
from .transforms import (
    ClipColorJitter,
    ClipGaussianBlur,
    ClipGrayscale,
    ClipRandAugment,
    RandomTemporalCrop,
)

__all__ = [
    'AnnotationError',
    'CheckedRawframeDataset',
    'CheckedVideoDataset',
    'ClassFolders',
    'ClipAugmentation',
    'ClipColorJitter',
    'ClipGaussianBlur',
    'ClipGrayscale',
    'ClipRandAugment',
    'FaultTolerant',
    'FaultTolerantRawframeDataset',
    'FaultTolerantVideoDataset',
    'RandomTemporalCrop',
    'Scene',
    'UpstreamDecordDecode',
    'UpstreamDecordInit',
    'annotation_lines',
    'draw_sprite',
    'draw_texture',
    'read_annotations',
    'split_class_folders',
    'write_lists',
]
