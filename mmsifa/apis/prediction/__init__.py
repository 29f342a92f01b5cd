"""Scores of videos by a trained recognizer, as tables, timelines and drawn videos."""
