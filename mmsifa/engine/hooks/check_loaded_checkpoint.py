"""Refuse a checkpoint of another model."""

from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmsifa.checkpoints.fit import check_fit


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
