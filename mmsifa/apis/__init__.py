"""Trained recognizers in use: what the tools call, and what scripts can."""

from mmsifa.apis.annotation import annotate_video
from mmsifa.apis.class_names import class_names
from mmsifa.apis.prediction import Prediction, VideoResult, find_videos, predict_videos
from mmsifa.apis.prediction_files import ResultTable
from mmsifa.apis.recognizer import change_config, default_device, load_config, load_recognizer
from mmsifa.apis.timeline import draw_timeline
from mmsifa.apis.video_reader import Window, sliding_windows, video_pipeline

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
