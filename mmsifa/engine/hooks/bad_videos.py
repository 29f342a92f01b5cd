"""Counting of the videos that could not be read."""

from pathlib import Path

import torch
from mmaction.registry import HOOKS
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook

from mmsifa.datasets import FaultTolerant
from mmsifa.engine.hooks.checks import datasets_of
from mmsifa.engine.model_wrappers import without_wrapper
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.text_files import escape_path, read_lines

MIN_FAILED = 10  # fewer say nothing about a share


@HOOKS.register_module()
class BadVideosHook(Hook):
    """Log, list and count the videos that a fault tolerant data set could not read.

    Every ``interval`` iterations and at the end of each epoch, validation and test the processes
    tell each other what failed. Each video is logged once, with the reason, and listed in
    ``bad_videos.txt`` in the work folder, a line ``VIDEO<TAB>REASON`` each. A run that resumes adds
    to that file. Without such a data set the hook does nothing.

    In validation and test, the samples that stand in for unreadable videos get the score 0 for
    their own classes and the same score for all others, so they count as wrong (unless top-k takes
    in every class). Their predictions are marked by ``unreadable``, also in a dump.

    Args:
        max_failed_share: The largest share of unreadable videos among those drawn in training since
            the start of the process. Ten failures are always allowed, since so few say nothing
            about a share. Default: 0.01.
        interval: Iterations between two exchanges. Default: 50.

    Raises:
        ValueError: If ``max_failed_share`` is not from 0 to 1 or ``interval`` not above 0.
        RuntimeError: In training, in all processes, when too many videos failed.

    Example:
        In a config::

            default_hooks = dict(bad_videos=dict(type='BadVideosHook', max_failed_share=0.02))
    """

    def __init__(self, max_failed_share: float = 0.01, interval: int = 50):
        if not 0 <= max_failed_share <= 1:
            raise ValueError(f'max_failed_share must be from 0 to 1, got {max_failed_share}')
        if interval < 1:
            raise ValueError(f'interval must be 1 or more iterations, got {interval}')
        self.max_failed_share = max_failed_share
        self.interval = interval
        self.active = False
        self.drawn = self.failed = 0  # in training, of all processes
        self.listed: dict[str, str] = {}
        self._new: list[tuple[str, str]] = []  # of this process, since the last exchange
        self._new_drawn = 0

    def before_run(self, runner):
        """Tell the data sets that their failures count.

        Args:
            runner: The runner.
        """
        for dataset in datasets_of(runner):
            if isinstance(dataset, FaultTolerant):
                dataset.counted = self.active = True

    def before_train(self, runner):
        """Take up the list of a run that resumes.

        Args:
            runner: The runner.
        """
        path = _list_of(runner)
        if self.active and runner.iter > 0 and path.exists():
            lines = (line.partition('\t') for line in read_lines(path))
            self.listed = {video: reason for video, _, reason in lines}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Count the failures of a batch.

        Args:
            runner: The runner.
            batch_idx: The number of the batch in its epoch.
            data_batch: The batch.
            outputs: The losses.
        """
        if not self.active:
            return
        self._count(data_batch['data_samples'])
        if self.every_n_train_iters(runner, self.interval):
            self._judge(runner)

    def after_train_epoch(self, runner):
        """Exchange, list and judge what failed.

        Args:
            runner: The runner.
        """
        if self.active:
            self._judge(runner)

    def before_val(self, runner):
        """Score the samples that stand in for unreadable ones from now on.

        Args:
            runner: The runner.
        """
        if not self.active:
            return
        self._judge(runner)  # what training has drawn so far
        model = without_wrapper(runner.model)
        self._scoring = model.register_forward_hook(self._score)

    def after_val(self, runner):
        """List and log what failed in validation or test.

        Args:
            runner: The runner.
        """
        if not self.active:
            return
        self._scoring.remove()
        failed = self._exchange(runner)[1]
        if failed:
            runner.logger.warning(
                f'{failed} samples could not be read and count as wrong; see {_list_of(runner)}'
            )

    before_test, after_test = before_val, after_val

    def _score(self, model, inputs, outputs):
        """Give wrong scores to stand-ins among the predictions."""
        for sample in outputs:
            if 'unreadable' in sample:
                self._new += sample.unreadable
                wrong = torch.ones_like(sample.pred_score)
                several = len(sample.gt_label) > 1
                wrong[sample.gt_label > 0 if several else sample.gt_label] = 0
                sample.set_pred_score(wrong if several else wrong / wrong.sum().clamp(min=1))
                sample.set_pred_label(wrong.argmax(keepdim=True))

    def _count(self, samples):
        self._new_drawn += len(samples)
        for sample in samples:
            failed = sample.get('unreadable', [])
            self._new += failed
            self._new_drawn += len(failed)

    def _exchange(self, runner) -> tuple[int, int]:
        """Log and list what is new in all processes; return how many were drawn and failed."""
        parts = all_gather_object((self._new_drawn, self._new))
        self._new_drawn, self._new = 0, []
        failed = [(escape_path(video), reason) for _, new in parts for video, reason in new]
        fresh = dict(item for item in reversed(failed) if item[0] not in self.listed)
        for video, reason in fresh.items():
            runner.logger.warning(f'{video} cannot be read: {reason}')
        self.listed.update(fresh)
        if fresh and is_main_process():
            lines = (f'{video}\t{reason}\n' for video, reason in sorted(self.listed.items()))
            write_atomically(_list_of(runner), ''.join(lines))
        return sum(drawn for drawn, _ in parts), len(failed)

    def _judge(self, runner):
        drawn, failed = self._exchange(runner)
        self.drawn += drawn
        self.failed += failed
        if self.failed > max(MIN_FAILED, self.max_failed_share * self.drawn):
            raise RuntimeError(
                f'{self.failed} of {self.drawn} videos drawn could not be read, more than '
                f'max_failed_share={self.max_failed_share:g}; {_list_of(runner)} names them. Mend '
                'them, leave them out of the list (mmsifa check-videos --out-good), or raise '
                'default_hooks.bad_videos.max_failed_share'
            )


def _list_of(runner) -> Path:
    return Path(runner.work_dir, 'bad_videos.txt')
