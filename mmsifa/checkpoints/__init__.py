"""Checkpoint files read without trust: what may be in them, a scan, and the loading."""
