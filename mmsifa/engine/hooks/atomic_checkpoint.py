"""A checkpoint hook that never loses the last good file."""

from pathlib import Path

from mmaction.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmsifa.engine.model_wrappers import without_wrapper
from mmsifa.fileio.atomic_write import remove_unfinished, write_atomically


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook, in an order that survives a kill and a full disk.

    The new checkpoint is written under a temporary name and renamed (:mod:`mmsifa.engine.patches`
    does so for all that MMEngine writes), then ``last_checkpoint`` names it, and only then older
    ones go. MMEngine removes them first and writes both files in place. Gradients that wait for an
    accumulated update are part of the checkpoint, averaged over the processes.

    All arguments are those of MMEngine's ``CheckpointHook``.

    Example:
        In a config::

            default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3))
    """

    _INTERRUPTED = 'interrupted_ckpt'  # in the message hub, so in the checkpoint
    _rank_buffers = None  # each rank's, while MMEngine has not averaged them at an epoch's end

    def before_train(self, runner):
        """Remove what a killed run has not finished writing.

        Args:
            runner: The runner.
        """
        super().before_train(runner)
        if is_main_process():
            remove_unfinished(self.out_dir)

    def save_interrupted(self, runner) -> str:
        """Save after an iteration; the next regular checkpoint takes the place of this one.

        Args:
            runner: The runner.

        Returns:
            The path of the checkpoint.
        """
        name = f'iter_{runner.iter + 1}.pth'
        path = self.file_backend.join_path(self.out_dir, name)
        if path == self.last_ckpt:
            return path  # a regular one, just saved
        previous = runner.message_hub.runtime_info.get(self._INTERRUPTED)
        saved = without_wrapper(runner.model).state_dict()
        buffers = {
            n: b.cpu() for n, b in without_wrapper(runner.model).named_buffers() if n in saved
        }
        self._rank_buffers = all_gather_object(buffers)
        runner.message_hub.update_info(self._INTERRUPTED, path)
        self._save(runner, name, dict(epoch=runner.epoch, iter=runner.iter + 1))
        self._rank_buffers = None
        if previous != path:
            self._remove(previous)
        return path

    def _save_checkpoint_with_step(self, runner, step, meta):
        outdated = []
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                name = self.filename_tmpl.format(self.keep_ckpt_ids[0])
                outdated.append(self.file_backend.join_path(self.out_dir, name))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        outdated.append(runner.message_hub.runtime_info.get(self._INTERRUPTED))
        runner.message_hub.update_info(self._INTERRUPTED, None)

        self._save(runner, self.filename_tmpl.format(step), meta)
        for path in outdated:
            self._remove(path)

    def _save_best_checkpoint(self, runner, metrics):
        if not hasattr(self, 'file_backend'):
            return  # a validation without a training
        removed: list[str] = []  # MMEngine removes the old one before it saves
        self.file_backend.remove = self.file_backend.rmtree = removed.append
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            del self.file_backend.remove, self.file_backend.rmtree
        kept = {getattr(self, 'best_ckpt_path', None), self.last_ckpt}
        kept.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in removed:
            if path not in kept:
                self._remove(path)

    def _save(self, runner, name, meta):
        """Save on all ranks, then let ``last_checkpoint`` name the file."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._average_pending_gradients(runner)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)

    def _remove(self, path):
        if not (path and is_main_process()):
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # a sharded checkpoint
            self.file_backend.rmtree(path)

    def before_save_checkpoint(self, runner, checkpoint):
        """Add what a run needs to go on in the middle of an epoch or of an accumulated update.

        Args:
            runner: The runner.
            checkpoint: What is about to be saved.
        """
        if self._rank_buffers is not None:
            checkpoint['rank_buffers'] = self._rank_buffers
        if 'optimizer' in checkpoint and self._waits_for_update(runner):
            checkpoint['pending_gradients'] = {
                name: parameter.grad.cpu()
                for name, parameter in without_wrapper(runner.model).named_parameters()
                if parameter.grad is not None
            }

    def after_load_checkpoint(self, runner, checkpoint):
        """Take it up again when the run goes on.

        Args:
            runner: The runner.
            checkpoint: What was loaded.
        """
        if not runner._resume:
            return
        buffers = checkpoint.get('rank_buffers', [])
        if len(buffers) == get_world_size():
            checkpoint['state_dict'].update(buffers[get_rank()])
        pending = checkpoint.get('pending_gradients', {})
        for name, parameter in without_wrapper(runner.model).named_parameters():
            if name in pending:
                parameter.grad = pending[name].to(parameter.device)

    def _waits_for_update(self, runner):
        # Gradients of FlexibleRunner's strategies may be sharded and stay out.
        return isinstance(runner, Runner) and not runner.optim_wrapper.should_update()

    def _average_pending_gradients(self, runner):
        """Each rank holds its own until the update; their mean leaves the update as it is."""
        if get_world_size() > 1 and self._waits_for_update(runner):
            for parameter in without_wrapper(runner.model).parameters():
                if parameter.grad is not None:
                    all_reduce(parameter.grad, 'mean')
