"""Trained recognizers in use: what the tools call, and what scripts can."""

from mmsifa.installation import require_mmaction2

require_mmaction2('mmsifa.apis')

from mmsifa.apis.prediction.class_names import class_names
from mmsifa.apis.prediction.drawn_video import annotate_video
from mmsifa.apis.prediction.scores import (
    Prediction,
    VideoResult,
    Window,
    find_videos,
    predict_videos,
    sliding_windows,
)
from mmsifa.apis.prediction.tables import ResultTable
from mmsifa.apis.prediction.timeline import draw_timeline
from mmsifa.apis.recognizer import change_config, default_device, load_config, load_recognizer
from mmsifa.datasets.pipelines import video_pipeline

__all__ = [
    'Prediction',
    'ResultTable',
    'VideoResult',
    'Window',
    'annotate_video',
    'change_config',
    'class_names',
    'default_device',
    'draw_timeline',
    'find_videos',
    'load_config',
    'load_recognizer',
    'predict_videos',
    'sliding_windows',
    'video_pipeline',
]
