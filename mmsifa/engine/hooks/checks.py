"""Checks of a run: the checkpoint is the model's, each label has a class, no loss is NaN."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmaction.models import BCELossWithLogits
from mmaction.registry import HOOKS
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, find_latest_checkpoint

from mmsifa.checkpoints.fit import check_fit, without_module
from mmsifa.engine.model_wrappers import without_wrapper
from mmsifa.engine.patches.metrics import metrics_of_labels, names_of


@HOOKS.register_module()
class CheckLoadedCheckpointHook(Hook):
    """Check that a checkpoint belongs to the model that loads it.

    MMEngine only logs which weights do not fit, and goes on with random ones. With this hook every
    name and shape must fit where a run tests, validates or resumes. Where ``load_from`` starts a
    training, the classifier may differ; what starts from scratch is logged.

    Args:
        retrained: How the names of weights start that need not fit where ``load_from`` starts a
            training; ``''`` lets all differ. Defaults to ``'cls_head.'``.
        unused: How the names of weights start that a checkpoint may hold in excess, such as those
            of a path that is left out to extract features. Defaults to None: none.

    Raises:
        CheckpointError: If the weights are those of another model.

    Example:
        In a config::

            default_hooks = dict(loaded=dict(type='CheckLoadedCheckpointHook'))
    """

    priority = 'VERY_HIGH'  # before EMAHook loads the weights

    def __init__(self, retrained: str = 'cls_head.', unused: str | None = None):
        self.retrained = retrained
        self.unused = unused

    def after_load_checkpoint(self, runner, checkpoint):
        """Check a checkpoint before its weights are used.

        Args:
            runner: The runner.
            checkpoint: What was loaded.
        """
        # Private to MMEngine, which tells hooks no other way what a run is about to do.
        fine_tunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        retrained = self.retrained if fine_tunes else None
        free = check_fit(runner.model, checkpoint, runner._load_from, retrained, self.unused)
        if free:
            runner.logger.info(f'not in the checkpoint, so trained from scratch: {free}')


def datasets_of(runner) -> Iterator[Any]:
    """The data sets of all loaders that the runner has built, out of their wrappers.

    Args:
        runner: The runner.

    Yields:
        Each data set, such as the two inside a ConcatDataset.
    """
    for loop in _loops(runner):
        yield from _datasets_of_loop(loop)


def _loops(runner) -> list[Any]:
    # The runner's properties would build what this run does not need.
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    return [loop for loop in loops if hasattr(loop, 'dataloader')]


def _datasets_of_loop(loop) -> Iterator[Any]:
    inside = [loop.dataloader.dataset]
    while inside:
        dataset = inside.pop()
        wrapped = vars(dataset).get('datasets') or [vars(dataset).get('dataset')]
        parts = [part for part in wrapped if hasattr(part, '__dict__')]  # no names, no lists
        if not parts:
            yield dataset
        inside.extend(parts)


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Compare the labels of annotation lists with the head's classes and with what is measured.

    Before training, validation and testing. It looks at the data sets that know their largest
    label (:class:`~mmsifa.datasets.CheckedVideoDataset` and its kin), also inside of wrappers such
    as ``RepeatDataset`` and ``ConcatDataset``, and at ``model.cls_head.num_classes`` where there is
    one. Of a list without labels nothing can be measured: a test that dumps its predictions leaves
    the metrics out, with a warning.

    Raises:
        ValueError: If a list has a label that the head has no class for, none at all where a
            metric needs them, or several of a sample where the head scores as if there were one.

    Example:
        In a config::

            default_hooks = dict(labels=dict(type='CheckLabelsHook'))
    """

    def before_run(self, runner):
        """Look at the data sets of the run.

        Args:
            runner: The runner.
        """
        model = without_wrapper(runner.model)
        head: Any = getattr(model, 'cls_head', None)
        classes = getattr(head, 'num_classes', None)
        by_itself = isinstance(getattr(head, 'loss_cls', None), BCELossWithLogits)
        for loop in _loops(runner):
            for dataset in _datasets_of_loop(loop):
                if not hasattr(dataset, 'largest_label'):
                    continue
                label, line = dataset.largest_label
                if label < 0:
                    self._do_without_labels(runner, loop, dataset.ann_file)
                elif classes is not None and label >= classes:
                    raise ValueError(
                        f'{dataset.ann_file}, line {line}: the label {label} needs '
                        f'model.cls_head.num_classes of {label + 1} or more, got {classes}, whose '
                        f'labels are 0 to {classes - 1}'
                    )
                if dataset.multi_class and by_itself and not head.multi_class:
                    raise ValueError(
                        f'{dataset.ann_file} may give a sample several labels: set '
                        'model.cls_head.multi_class=True, or the head scores classes by a softmax '
                        'that BCELossWithLogits trains each by itself'
                    )

    @staticmethod
    def _do_without_labels(runner, loop, ann_file):
        """Measure nothing on a list that has none, or raise an error."""
        dumps, needing = [], ['the loss']
        if loop is not runner._train_loop:
            metrics = loop.evaluator.metrics
            dumps = [metric for metric in metrics if isinstance(metric, DumpResults)]
            needing = metrics_of_labels(loop.evaluator)
        if not needing:
            return
        names = ', '.join(needing)
        if not dumps or loop is not runner._test_loop:
            raise ValueError(
                f'{ann_file} has no labels, which are needed for {names}: add them to the list, or '
                'test with --dump FILE.pkl to have the scores alone'
            )
        runner.logger.warning(f'{ann_file} has no labels, so {names} is left out')
        loop.evaluator.metrics = dumps


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Stop training when a loss is NaN or infinite, and let no such weights into a checkpoint.

    The last checkpoint stays the last good one. The message says where it happened, at which
    learning rate, and which samples were in the batch: ``filename`` or ``frame_dir`` of the data
    samples, which ``PackActionInputs`` keeps if its ``meta_keys`` name them.

    Raises:
        FloatingPointError: After the iteration whose losses are not finite, or before a checkpoint
            whose weights are not.

    Example:
        In a config::

            default_hooks = dict(invalid_loss=dict(type='InvalidLossHook'))
    """

    priority = 'VERY_HIGH'  # before the hooks that average, log or save

    def before_train(self, runner):
        """Take notice of what is meant to be infinite, such as attention masks.

        Args:
            runner: The runner.
        """
        self.infinite_by_design = set(_not_finite(dict(runner.model.named_buffers())))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Check the losses of an iteration.

        Args:
            runner: The runner.
            batch_idx: The number of the batch in its epoch.
            data_batch: The batch, with its ``data_samples``.
            outputs: The losses.
        """
        losses = {name: value for name, value in outputs.items() if 'loss' in name}
        if all(torch.isfinite(value).all() for value in losses.values()):
            return
        values = ', '.join(f'{name} {value.item()}' for name, value in losses.items())
        rates = ', '.join(
            str(rate) for rate in sorted({rate for group in _rates(runner) for rate in group})
        )
        samples = names_of(data_batch['data_samples'])
        raise FloatingPointError(
            f'{values} at iteration {runner.iter + 1} (epoch {runner.epoch + 1}, batch '
            f'{batch_idx + 1}), learning rate {rates}, samples {samples}. '
            f'{self._last_good(runner)} Look at these samples, lower the learning rate or the '
            "gradients' max_norm, or use bfloat16 in the place of float16."
        )

    def before_save_checkpoint(self, runner, checkpoint):
        """Refuse to save weights that are not finite.

        Args:
            runner: The runner.
            checkpoint: What is about to be saved.
        """
        if not hasattr(self, 'infinite_by_design'):
            self.before_train(runner)  # saved without a training
        invalid = _not_finite(checkpoint['state_dict'])
        invalid = [name for name in invalid if name not in self.infinite_by_design]
        if invalid:
            raise FloatingPointError(
                f'{len(invalid)} of {len(checkpoint["state_dict"])} weights and statistics are NaN '
                f'or infinite at iteration {runner.iter} (the first is {invalid[0]}), so no '
                f'checkpoint was saved. {self._last_good(runner)} Lower the learning rate or the '
                "gradients' max_norm."
            )

    @staticmethod
    def _last_good(runner) -> str:
        last = find_latest_checkpoint(runner.work_dir)
        return f'The last good checkpoint is {last}.' if last else 'There is no checkpoint yet.'


def _not_finite(state_dict) -> list[str]:
    return [
        name
        for name, value in without_module(state_dict).items()
        if torch.is_tensor(value) and not torch.isfinite(value).all()
    ]


def _rates(runner) -> Iterable[list[float]]:
    return runner.optim_wrapper.get_lr().values()
