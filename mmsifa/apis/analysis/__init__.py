"""What recognizers cost: parameters, multiply-adds, memory and time."""

from mmsifa.apis.analysis.complexity import (
    PARTS,
    build_untrained,
    by_part,
    count_multiply_adds,
    count_parameters,
    total,
)
from mmsifa.apis.analysis.measurement import DTYPES, MeasuredNetwork, MeasurementError
from mmsifa.apis.analysis.report import ReportSettings, make_report, processor_name
from mmsifa.apis.analysis.report_pages import chart, markdown
from mmsifa.datasets.pipelines import Clip, clip_of, views_of

__all__ = [
    'DTYPES',
    'PARTS',
    'Clip',
    'MeasuredNetwork',
    'MeasurementError',
    'ReportSettings',
    'build_untrained',
    'by_part',
    'chart',
    'clip_of',
    'count_multiply_adds',
    'count_parameters',
    'make_report',
    'markdown',
    'processor_name',
    'total',
    'views_of',
]
