"""Accuracy of parts of a data set."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmaction.registry import METRICS
from mmengine.evaluator import BaseMetric


@METRICS.register_module()
class AccuracyBy(BaseMetric):
    """Top-1 accuracy, and that of the samples with each value of a meta key.

    The results are ``acc/top1`` and, for each value, ``acc/KEY=VALUE``.

    Args:
        key: The key, which the pipeline must pack: ``PackActionInputs(meta_keys=(key,))``.
        collect_device: Where several processes exchange results, ``'cpu'`` or ``'gpu'``. Default:
            ``'cpu'``.

    Raises:
        ValueError: If a sample does not have the key.

    Example:
        >>> import torch
        >>> metric = AccuracyBy('displacement')
        >>> sample = dict(pred_score=torch.tensor([0.2, 0.8]), gt_label=torch.tensor([1]))
        >>> wrong = dict(pred_score=torch.tensor([0.2, 0.8]), gt_label=torch.tensor([0]))
        >>> metric.process({}, [dict(sample, displacement=4.0), dict(wrong, displacement=0.0)])
        >>> metric.evaluate(size=2)
        {'acc/top1': 0.5, 'acc/displacement=0': 0.0, 'acc/displacement=4': 1.0}
    """

    default_prefix = 'acc'

    def __init__(self, key: str, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)
        self.key = key

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep which samples of a batch are right.

        Args:
            data_batch: Not used.
            data_samples: What the recognizer predicts, and the samples' labels and meta keys.
        """
        for sample in data_samples:
            if self.key not in sample:
                raise ValueError(
                    f'AccuracyBy expects samples with {self.key!r}, got the keys {sorted(sample)}: '
                    f"add it to the pipeline's PackActionInputs, meta_keys=({self.key!r},)"
                )
            right = sample['pred_score'].argmax().item() == sample['gt_label'].item()
            self.results.append((sample[self.key], right))

    def compute_metrics(self, results: list[tuple[Any, bool]]) -> dict[str, float]:
        """Compute the accuracies.

        Args:
            results: Value and whether it is right, of each sample.

        Returns:
            The accuracies by name.
        """
        groups = defaultdict(list)
        for value, right in results:
            groups[value].append(right)
        accuracies = {'top1': _mean([right for _, right in results])}
        for value, group in sorted(groups.items()):
            name = f'{value:g}' if isinstance(value, float) else value
            accuracies[f'{self.key}={name}'] = _mean(group)
        return accuracies


def _mean(right: list[bool]) -> float:
    return sum(right) / len(right)
