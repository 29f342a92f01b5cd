"""Recognizers as ONNX files and AOTInductor packages."""

from mmsifa.apis.export.comparison import Comparison
from mmsifa.apis.export.exporter import Exporter, ExportError
from mmsifa.apis.export.scorer import check_config

__all__ = ['Comparison', 'ExportError', 'Exporter', 'check_config']
