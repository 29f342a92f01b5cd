"""Which runs a study has, and the config of each."""

import hashlib
import json
import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsifa.datasets.class_folders import VIDEO_SUFFIXES, ClassFolders, write_lists

# Files of configs/study/models and what their networks are called.
MODELS = {
    'c2d': 'C2D',
    'temporal_conv': 'temporal convolution',
    'tsm': 'TSM',
    'undeformed': 'attention, not deformed',
    'unscaled': 'attention, no motion rescaling',
    'sifa': 'SIFA',
    'sifa_softmax': 'SIFA, softmax',
    'sifa_taps': 'SIFA, tap embedding',
    'swin_conv': 'Swin, temporal convolution',
    'swin_sifa': 'Swin, SIFA',
    'swin_both': 'Swin, both',
}
# Files of configs/study/tasks and what they ask for.
TASKS = {'direction': 'name the motion', 'appearance': 'name the appearance'}
VIDEO_TASKS = {
    'play_order': 'played forwards or backwards',
    'play_speed': 'name the speed',
    'panning_crop': "name the crop's direction",
}
SEEDS = (0, 1, 2)
VAL_SHARE = 0.2  # of the videos
DELIMITER = '\t'  # in lists of videos


@dataclass(frozen=True)
class Run:
    """A network that is trained and tested on a task.

    Args:
        task: A key of ``TASKS`` or ``VIDEO_TASKS``.
        model: A key of ``MODELS``.
        seed: Seed of the weights and of the training clips.

    Example:
        >>> Run('direction', 'sifa', 0).name
        'direction-sifa-0'
    """

    task: str
    model: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f'{self.task}-{self.model}-{self.seed}'


@dataclass(frozen=True)
class Study:
    """The runs of a study: each model on each task, with each seed.

    Args:
        out: The study's folder.
        configs: The folder of ``schedule.py``, ``models`` and ``tasks``.
        quick: Whether there is one seed, less training and less testing. Default: False.
        videos: A folder of videos for the tasks of ``VIDEO_TASKS``. Default: None, without them.
        options: What to change in all configs, as of ``--cfg-options``. Default: {}.

    Example:
        >>> study = Study(getfixture('tmp_path'), Path('configs/study'), quick=True)
        >>> len(study.runs), study.runs[0]
        (22, Run(task='direction', model='c2d', seed=0))
        >>> study.config(study.runs[0]).model.backbone.between_frames.type
        'torch.nn.Identity'
    """

    out: Path
    configs: Path
    quick: bool = False
    videos: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def runs(self) -> list[Run]:
        """All runs; those of the first seed come first."""
        tasks = [*TASKS, *(VIDEO_TASKS if self.videos else ())]
        seeds = SEEDS[:1] if self.quick else SEEDS
        return [Run(task, model, seed) for seed in seeds for task in tasks for model in MODELS]

    def folder(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.out / 'runs' / run.name

    def config(self, run: Run) -> Config:
        """Put the config of a run together.

        Args:
            run: The run.

        Returns:
            The whole config, which MMAction2's tools can train and test.

        Raises:
            ValueError: If there are no videos for a task that needs them.
        """
        config = Config.fromfile(self.configs / 'tasks' / f'{run.task}.py')
        config.merge_from_dict(
            Config.fromfile(self.configs / 'models' / f'{run.model}.py')._cfg_dict
        )
        if self.quick:
            config.iterations = config.quick_iterations
            config.test_clips = config.quick_test_clips
        config.merge_from_dict(self.options)
        config.model.cls_head.num_classes = config.num_classes
        config.randomness = dict(seed=run.seed)
        train = config.train_dataloader.dataset
        tests = [config[f'{split}_dataloader'].dataset for split in ('val', 'test')]
        clips = config.iterations * config.batch_size
        if run.task in VIDEO_TASKS:
            if self.videos is None:
                raise ValueError(f'{run.task} needs a folder of videos, --videos')
            lists = self.write_lists(run.task, config.num_classes)
            for part, name in ((train, 'train'), *((test, 'val') for test in tests)):
                part.dataset.ann_file = str((lists / f'{name}_list_videos.txt').absolute())
                part.dataset.data_prefix = dict(video=str(self.videos.absolute()))
            lines = (lists / 'train_list_videos.txt').read_text().count('\n')
            train.times = max(1, round(clips / lines))
        else:
            train.update(num_clips=clips, seed=run.seed)
            for test in tests:
                test.num_clips = config.test_clips
        return config

    def write_lists(self, task: str, num_classes: int) -> Path:
        """List the videos of a task, each once with each label, a fifth of them to test with.

        Args:
            task: The task.
            num_classes: The number of its labels.

        Returns:
            The folder of the lists.

        Raises:
            ValueError: If there are fewer than two videos.
            FileExistsError: If the study has lists of other videos.
        """
        assert self.videos is not None
        names = sorted(
            path.relative_to(self.videos).as_posix()
            for path in self.videos.rglob('*')
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        )
        if len(names) < 2:
            raise ValueError(
                f'{self.videos} must hold two videos or more, to train and to test with, got '
                f'{len(names)} (videos end in {", ".join(VIDEO_SUFFIXES)})'
            )
        random.Random(0).shuffle(names)
        held_out = max(1, round(VAL_SHARE * len(names)))
        train, val = (
            [(name, label) for name in sorted(part) for label in range(num_classes)]
            for part in (names[held_out:], names[:held_out])
        )
        folder = self.out / 'lists' / task
        classes = [str(label) for label in range(num_classes)]
        write_lists(ClassFolders(classes, train, val), folder, DELIMITER)
        return folder


def digest(config: Config) -> str:
    """Return a number that is another one for another config.

    Args:
        config: A config; the folder it works in does not count.

    Returns:
        16 hexadecimal digits.
    """
    entries = {key: value for key, value in config.to_dict().items() if key != 'work_dir'}
    text = json.dumps(entries, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
