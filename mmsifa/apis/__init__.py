"""Trained recognizers in use: what the tools call, and what scripts can."""

from mmsifa.apis.recognizer import default_device, load_config, load_recognizer

__all__ = ['default_device', 'load_config', 'load_recognizer']
