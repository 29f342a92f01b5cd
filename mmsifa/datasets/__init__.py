"""Data: checked and drawn data sets, tasks and clip augmentations, in MMAction2's registries."""

from mmsifa import require_mmaction2

require_mmaction2('mmsifa.datasets')

from .annotations import AnnotationError, annotation_lines, read_annotations
from .checked import CheckedRawframeDataset, CheckedVideoDataset
from .class_folders import ClassFolders, split_class_folders, write_lists
from .fault_tolerant import FaultTolerant, FaultTolerantRawframeDataset, FaultTolerantVideoDataset
from .order_tasks import PanningCrop, PlayOrder, PlaySpeed
from .scenes import Scene, draw_sprite, draw_texture
from .synthetic import SyntheticClips, sample_scene
from .transforms import ClipGaussianBlur, ClipGrayscale, ClipRandAugment

__all__ = [
    'AnnotationError',
    'CheckedRawframeDataset',
    'CheckedVideoDataset',
    'ClassFolders',
    'ClipGaussianBlur',
    'ClipGrayscale',
    'ClipRandAugment',
    'FaultTolerant',
    'FaultTolerantRawframeDataset',
    'FaultTolerantVideoDataset',
    'PanningCrop',
    'PlayOrder',
    'PlaySpeed',
    'Scene',
    'SyntheticClips',
    'annotation_lines',
    'draw_sprite',
    'draw_texture',
    'read_annotations',
    'sample_scene',
    'split_class_folders',
    'write_lists',
]
