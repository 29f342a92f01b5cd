"""A training loop that can be killed at any moment and goes on as if it had not been."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmaction.registry import DATA_SAMPLERS, DATASETS, LOOPS
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import Dataset, Sampler


def seed_generators(*key: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators by a key of numbers >= 0.

    Args:
        *key: Any numbers, such as a seed, an epoch and an index; other keys give unrelated
            numbers.

    Example:
        >>> seed_generators(0, 3, 17)
        >>> first = torch.rand(2), np.random.rand(), random.random()
        >>> seed_generators(0, 3, 17)
        >>> (torch.rand(2) == first[0]).all().item(), np.random.rand() == first[1]
        (True, True)
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (what MMAction2's transforms draw from)
    number = int(words[2]) << 32 | int(words[3])
    torch.default_generator.manual_seed(number)  # torch.manual_seed would take a millisecond
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose random augmentation depends on seed, epoch and index only.

    Without it a sample's augmentation depends on what its worker process drew before, which a
    checkpoint does not hold. :class:`ResumableTrainLoop` wraps its data set by this class; any
    other attribute is that of the data set inside.

    Args:
        dataset: A data set or the config of one.
        seed: The seed of the run; the loop sets it and the epoch.
    """

    def __init__(self, dataset: dict | Dataset, seed: int = 0):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed
        # Shared with worker processes that outlive an epoch.
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __getitem__(self, index: int) -> Any:
        seed_generators(self.seed, self.epoch.item(), index)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # asked for while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """A sampler that can leave out what a broken-off epoch has already used.

    Args:
        dataset: The data set to sample from.
        sampler: The config of the sampler whose indices are taken.
        seed: The seed of its order, the same in all processes; the loop sets it.

    Attributes:
        start: How many of the next epoch's indices to leave out. Default: 0.
    """

    def __init__(self, dataset: Dataset, sampler: dict, seed: int):
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next, as in MMEngine's samplers."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return len(self.sampler)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's epochs, with nothing in them that a checkpoint does not restore.

    A run that resumes ends with the same weights as one that was never interrupted: bit by bit on
    a CPU, at the same number of threads and processes. Three things make it so:

    - All random numbers are functions of the seed and of the position in the run: augmentation of
      the epoch and the sample's index (:class:`SeededDataset`), drop-out and the like of the
      iteration and the rank. The seed, and so the order of the data, is the checkpoint's.
    - A checkpoint from the middle of an epoch resumes there: the samples that the epoch has used
      are left out (:class:`ResumableSampler`), on another number of processes too.
    - A run that stopped at the end of an epoch validates it again where a validation was due,
      since the checkpoint is older than its result.

    Gradients that wait for an accumulated update are restored by
    :class:`~mmsifa.engine.hooks.AtomicCheckpointHook`. What MMEngine counts in iterations
    (schedules, hooks) keeps its meaning only for the same batch size and number of processes.

    Args:
        runner: The runner.
        dataloader: The config of the data loader of the training data.
        **kwargs: Arguments of MMEngine's ``EpochBasedTrainLoop``: ``max_epochs``, ``val_begin``,
            ``val_interval``, ``dynamic_intervals``.

    Raises:
        TypeError: If ``dataloader`` is no config with a ``sampler`` and a ``dataset``.

    Example:
        In a config::

            train_cfg = dict(type='ResumableTrainLoop', max_epochs=64, val_interval=4)
    """

    def __init__(self, runner, dataloader: dict, **kwargs):
        parts = dataloader if isinstance(dataloader, dict) else {}
        if 'dataset' not in parts or not isinstance(parts.get('sampler'), dict):
            raise TypeError(
                'ResumableTrainLoop expects train_dataloader to be a config with a dataset and the '
                f'config of a sampler, got {dataloader!r}'
            )
        dataloader = dict(
            dataloader,
            dataset=dict(type='SeededDataset', dataset=dataloader['dataset']),
            sampler=dict(type='ResumableSampler', sampler=dataloader['sampler']),
        )
        super().__init__(runner, dataloader, **kwargs)

    def run(self) -> torch.nn.Module:
        """Train from where the run stopped to the last epoch.

        Returns:
            The trained model.
        """
        # The checkpoint's, not that of this start; the first rank's under --diff-rank-seed.
        seed = all_gather_object(self.runner.seed)[0]
        self._dataset.seed = self._sampler.sampler.seed = seed
        self.runner.call_hook('before_train')
        if self._iter and not self._samples_used:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        self._dataset.epoch.fill_(self._epoch)
        self._sampler.start = self._samples_used // get_world_size()
        first = self._sampler.start // self.dataloader.batch_sampler.batch_size
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for batch_idx, data_batch in enumerate(self.dataloader, first):
            self.run_iter(batch_idx, data_batch)
        self._samples_used = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Train one batch.

        Args:
            idx: Its number in the epoch.
            data_batch: The batch.
        """
        self._samples_used += self.dataloader.batch_sampler.batch_size * get_world_size()
        seed_generators(self.runner.seed, self._iter, get_rank())
        super().run_iter(idx, data_batch)

    @property
    def _dataset(self) -> SeededDataset:
        dataset = self.dataloader.dataset
        # num_batch_per_epoch puts a slice around it.
        return dataset if isinstance(dataset, SeededDataset) else dataset._dataset

    @property
    def _sampler(self) -> ResumableSampler:
        return self.dataloader.batch_sampler.sampler

    @property
    def _samples_used(self) -> int:
        """Samples of this epoch that were trained on, in all processes; part of checkpoints."""
        return self.runner.message_hub.runtime_info.get('samples_used_in_epoch', 0)

    @_samples_used.setter
    def _samples_used(self, samples: int) -> None:
        self.runner.message_hub.update_info('samples_used_in_epoch', samples)

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        hub = self.runner.message_hub
        # So says a checkpoint that was saved again as the best one.
        done = hub.runtime_info.get('validated_epoch') == self._epoch
        if self.runner.val_loop is None or self._epoch < self.val_begin or not due or done:
            return
        hub.update_info('validated_epoch', self._epoch)
        self.runner.val_loop.run()
