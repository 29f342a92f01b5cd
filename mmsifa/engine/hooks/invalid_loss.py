"""Stop at the first number that is none."""

from collections.abc import Iterable

import torch
from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

from mmsifa.checkpoints.fit import without_module


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
        raise FloatingPointError(
            f'{values} at iteration {runner.iter + 1} (epoch {runner.epoch + 1}, batch '
            f'{batch_idx + 1}), learning rate {rates}, samples {_names(data_batch)}. '
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


def _names(data_batch) -> str:
    names = [
        sample.get('filename') or sample.get('frame_dir') for sample in data_batch['data_samples']
    ]
    if None in names:
        return "unknown (name 'filename' in the meta_keys of PackActionInputs to see them)"
    return ', '.join(names)
