"""Stop at a signal, in a way that the next start goes on from."""

import signal
import threading
from collections.abc import Sequence

import torch
from mmaction.registry import HOOKS
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmsifa.engine.hooks.atomic_checkpoint import AtomicCheckpointHook
from mmsifa.ops.arguments import check_integers

EXIT_CODE = 75  # EX_TEMPFAIL: try again


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save a checkpoint and end when a signal says that time is up.

    A cluster gives notice of the end of a job's time (Slurm: ``sbatch --signal=USR1@120``). The
    iteration is finished, and with accumulated gradients the update; then the checkpoint is saved
    and every process ends with exit code 75. The next start with ``--resume`` goes on from there,
    with :class:`~mmsifa.engine.loops.ResumableTrainLoop` in the middle of the epoch. It is enough
    that one of several processes gets the signal: they ask each other every tenth iteration and at
    the end of an epoch, since all wait for the answer. A signal that a launcher held back while
    Python started (``env --block-signal=USR1``) is taken when the run begins.

    Args:
        signals: Names of the signals. Default: SIGUSR1 alone, since SIGTERM is also what launchers
            send to end the other processes when one has failed. None of them: the hook is idle.
        interval: Iterations after which several processes ask each other. Defaults to 10.

    Raises:
        ValueError: If a signal is not known here, or the interval is no positive integer.

    Example:
        In a config::

            default_hooks = dict(
                checkpoint=dict(type='AtomicCheckpointHook'),
                preemption=dict(type='PreemptionHook'))
    """

    priority = 'LOWEST'  # after the schedules' step

    def __init__(self, signals: Sequence[str] = ('SIGUSR1',), interval: int = 10):
        check_integers(interval=interval)
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            known = ', '.join(signal.Signals.__members__)
            raise ValueError(f'PreemptionHook expects signals among {known}, got {unknown}')
        self.signals = [signal.Signals[name] for name in signals]
        self.interval = interval
        self.iterations = 0  # since the processes asked each other
        self.received = False
        self.saver: AtomicCheckpointHook | None = None  # while signals are caught

    def before_run(self, runner):
        """Catch the signals of a training from now on.

        Args:
            runner: The runner.
        """
        # Private to MMEngine, which tells hooks no other way what a run is about to do.
        if not (self.signals and isinstance(runner._train_loop, BaseLoop)):
            return
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        if not savers or threading.current_thread() is not threading.main_thread():
            runner.logger.warning(
                'PreemptionHook is idle: it needs default_hooks.checkpoint of type '
                'AtomicCheckpointHook to save by, and the main thread to get signals in'
            )
            return
        self.saver = savers[0]
        self._previous = {number: signal.signal(number, self._receive) for number in self.signals}
        # One may wait, held back until now
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)

    def after_run(self, runner):
        """Give the signals back.

        Args:
            runner: The runner.
        """
        if self.saver is None:
            return
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.saver = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Save and end if a process has got the signal.

        Args:
            runner: The runner.
            batch_idx: The number of the batch in its epoch.
            data_batch: The batch.
            outputs: The losses.
        """
        self.iterations += 1
        if self.saver is None or not runner.optim_wrapper.should_update():
            return
        if not self._received_anywhere(self.end_of_epoch(runner.train_dataloader, batch_idx)):
            return
        path = self.saver.save_interrupted(runner)
        barrier()  # nobody ends, and takes the others along, before the file is there
        runner.logger.info(
            f'Stopped by a signal after iteration {runner.iter + 1} and saved {path}: the same '
            'command with --resume goes on from there'
        )
        raise SystemExit(EXIT_CODE)

    def _received_anywhere(self, last_of_epoch: bool) -> bool:
        """Ask the other processes, if it is time to, whether one has got the signal."""
        if get_world_size() == 1:
            return self.received
        if self.iterations < self.interval and not last_of_epoch:
            return False
        self.iterations = 0
        received = torch.tensor(int(self.received))
        all_reduce(received, 'max')
        return bool(received)

    def _receive(self, number, frame):
        self.received = True
