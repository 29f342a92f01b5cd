"""Recognizers as ONNX files and AOTInductor packages."""

from mmsifa.export.comparison import Comparison
from mmsifa.export.recognizer import Exporter, ExportError
from mmsifa.export.scorer import check_config

__all__ = ['Comparison', 'ExportError', 'Exporter', 'check_config']
