"""Patches of what MMAction2 1.2 scores and measures."""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.evaluator import DumpResults, Evaluator


@functools.cache
def patch_multi_class_scores():
    """Heads with ``multi_class`` score by a softmax (mmaction/models/heads/base.py:253).

    Under it the classes of a sample compete. Each has a probability of its own, a sigmoid.
    """
    from mmaction.models.heads import BaseHead

    upstream = BaseHead.average_clip

    @functools.wraps(upstream)
    def average_clip(self, cls_scores, num_segs=1):
        if self.multi_class and self.average_clips == 'prob':
            shape = (cls_scores.shape[0] // num_segs, num_segs, *cls_scores.shape[1:])
            return cls_scores.view(shape).sigmoid().mean(dim=1)
        return upstream(self, cls_scores, num_segs)

    head = SimpleNamespace(multi_class=True, average_clips='prob')
    if upstream(head, torch.zeros(1, 4)).sum() < 2:  # four probabilities of a half
        BaseHead.average_clip = average_clip


@functools.cache
def patch_measures_of_nothing():
    """NaN scores have an accuracy, and labels of -1 have one (mmengine/evaluator/evaluator.py:51).

    -1 is what MMAction2's data sets make up where a list has no labels. In validation, tests and
    with dumped predictions such samples are an error, for whatever metric.
    """
    upstream = Evaluator.process

    @functools.wraps(upstream)
    def process(self, data_samples, data_batch=None):
        # Features that a head gives in the place of scores are bare tensors.
        samples = [sample for sample in data_samples if hasattr(sample, 'get')]
        invalid = [sample for sample in samples if not _is_finite(sample.get('pred_score'))]
        if invalid:
            raise FloatingPointError(
                f'the scores of samples {names_of(invalid)} are NaN or infinite, so nothing is '
                'measured: look at these samples and at the weights'
            )
        unlabelled = [sample for sample in samples if _is_made_up(sample.get('gt_label'))]
        metrics = ', '.join(metrics_of_labels(self))
        if unlabelled and metrics:
            raise ValueError(
                f'{metrics} needs labels from 0 on, got -1, as in a list without labels, for '
                f'samples {names_of(unlabelled)}'
            )
        upstream(self, data_samples, data_batch)

    Evaluator.process = process


def metrics_of_labels(evaluator: Evaluator) -> list[str]:
    """Return the names of the metrics that need labels: all that do more than dump."""
    metrics = evaluator.metrics
    return [type(metric).__name__ for metric in metrics if not isinstance(metric, DumpResults)]


def names_of(samples: Sequence[Any]) -> str:
    """Return the videos or frame folders of data samples, as far as they tell."""
    names = [sample.get('filename') or sample.get('frame_dir') for sample in samples]
    if None in names:
        return "unknown (name 'filename' in the meta_keys of PackActionInputs to see them)"
    return ', '.join(names)


def _is_finite(scores: Any) -> bool:
    if isinstance(scores, dict):  # of a head for several modalities
        return all(map(_is_finite, scores.values()))
    return not torch.is_tensor(scores) or bool(torch.isfinite(scores).all())


def _is_made_up(label: Any) -> bool:
    return torch.is_tensor(label) and bool((label < 0).any())
