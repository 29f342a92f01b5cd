"""The study: networks that differ only in how they relate frames, trained alike and compared.

Importing it registers its data sets, transforms and metric with MMAction2.
"""

import mmsifa  # noqa: F401  (patches MMAction2 before anything imports its models)
from study.accuracy_by import AccuracyBy
from study.charts import draw_cases, find_cases
from study.efficientnet_lite import EfficientNetLite0
from study.offsets import fit_motion, measure_offsets, offset_errors, true_places, watch
from study.plan import (
    IMAGE,
    NETWORKS,
    TASKS,
    TRUNKS,
    Network,
    Run,
    Study,
)
from study.real_videos import ShuffleFrames, VideoSet, split_clips
from study.results import (
    format_results,
    measure_costs,
    overview,
    read_results,
    real_tables,
    summarize,
    tables,
    unpack,
    write_report,
)
from study.runs import is_finished, measure_svms, missing_runs, train_and_test, work_through
from study.synthetic import SyntheticClips, sample_scene
from study.trn_head import ClipTRNHead

__all__ = [
    'IMAGE',
    'NETWORKS',
    'TASKS',
    'TRUNKS',
    'AccuracyBy',
    'ClipTRNHead',
    'EfficientNetLite0',
    'Network',
    'Run',
    'ShuffleFrames',
    'Study',
    'SyntheticClips',
    'VideoSet',
    'draw_cases',
    'find_cases',
    'fit_motion',
    'format_results',
    'is_finished',
    'measure_costs',
    'measure_offsets',
    'measure_svms',
    'missing_runs',
    'offset_errors',
    'overview',
    'read_results',
    'real_tables',
    'sample_scene',
    'split_clips',
    'summarize',
    'tables',
    'train_and_test',
    'true_places',
    'unpack',
    'watch',
    'work_through',
    'write_report',
]
