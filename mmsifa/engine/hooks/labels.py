"""Labels that the network has no class for."""

from collections.abc import Iterator
from typing import Any

from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper


def datasets_of(runner) -> Iterator[Any]:
    """The data sets of all loaders that the runner has built, out of their wrappers.

    Args:
        runner: The runner.

    Yields:
        Each data set, such as the two inside a ConcatDataset.
    """
    # The runner's properties would build what this run does not need.
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        inside = [loop.dataloader.dataset] if hasattr(loop, 'dataloader') else []
        while inside:
            dataset = inside.pop()
            wrapped = vars(dataset).get('datasets') or [vars(dataset).get('dataset')]
            parts = [part for part in wrapped if hasattr(part, '__dict__')]  # no names, no lists
            if not parts:
                yield dataset
            inside.extend(parts)


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Compare the labels of annotation lists with the number of the head's classes.

    Before training, validation and testing. It looks at the data sets that know their largest
    label (:class:`~mmsifa.datasets.CheckedVideoDataset` and its kin), also inside of wrappers such
    as ``RepeatDataset`` and ``ConcatDataset``, and at ``model.cls_head.num_classes``; where there
    is none it does nothing.

    Raises:
        ValueError: If a list has a label that the head has no class for.

    Example:
        In a config::

            default_hooks = dict(labels=dict(type='CheckLabelsHook'))
    """

    def before_run(self, runner):
        """Look at the data sets of the run.

        Args:
            runner: The runner.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        classes = getattr(getattr(model, 'cls_head', None), 'num_classes', None)
        if classes is None:
            return
        for dataset in datasets_of(runner):
            label, line = getattr(dataset, 'largest_label', (-1, 0))
            if label >= classes:
                raise ValueError(
                    f'{dataset.ann_file}, line {line}: the label {label} needs '
                    f'model.cls_head.num_classes of {label + 1} or more, got {classes}, whose '
                    f'labels are 0 to {classes - 1}'
                )
