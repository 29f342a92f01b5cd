"""The study: what is between frames, compared on the same trunk, budget and recipe."""

from mmsifa.study.cases import draw_cases, find_cases
from mmsifa.study.costs import measure_costs
from mmsifa.study.offsets import fit_motion, measure_offsets, offset_errors, true_places, watch
from mmsifa.study.plan import IMAGE, MODELS, TASKS, TRUNKS, VIDEO_TASKS, Run, Study
from mmsifa.study.report import read_results, summarize, write_report
from mmsifa.study.runs import is_finished, missing_runs, train_and_test, work_through

__all__ = [
    'IMAGE',
    'MODELS',
    'TASKS',
    'TRUNKS',
    'VIDEO_TASKS',
    'Run',
    'Study',
    'draw_cases',
    'find_cases',
    'fit_motion',
    'is_finished',
    'measure_costs',
    'measure_offsets',
    'missing_runs',
    'offset_errors',
    'read_results',
    'summarize',
    'train_and_test',
    'true_places',
    'watch',
    'work_through',
    'write_report',
]
