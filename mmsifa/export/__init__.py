"""Recognizers as ONNX files and AOTInductor packages."""

from mmsifa.export.recognizer import Comparison, Exporter, ExportError, check_writable

__all__ = ['Comparison', 'ExportError', 'Exporter', 'check_writable']
