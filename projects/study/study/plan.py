"""Which networks and tasks a study compares, its runs, and the config of each."""

import hashlib
import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmsifa.apis import change_config
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.config_files import config_errors
from study.real_videos import VIDEO_SETS, class_names, sets_in, split_clips

# The task of single frames, from whose networks the others start.
IMAGE = 'image'
# Files of configs/tasks and what they ask for.
TASKS = {'direction': 'name the motion', 'parts': 'name what is seen in parts'}
# Those of real videos, a task for each part that is tested.
VIDEO_TASKS = {
    f'{name}.{part}': videos.title for name, videos in VIDEO_SETS.items() for part in videos.parts
}
TITLES = TASKS | {name: videos.title for name, videos in VIDEO_SETS.items()}
CONFIGS = Path(__file__).parents[1] / 'configs'
SEEDS = (0, 1, 2)
QUICK_MODELS = ('c2d', 'temporal_conv', 'sifa_slow_offsets')
LIST = '{}_list_videos.txt'
DELIMITER = '\t'  # in these lists
# What options may change of the values at the top of a config; entries are made of the others.
CHANGEABLE = ('iterations', 'batch_size', 'test_clips', 'log_level', 'load_from')


class Network(NamedTuple):
    """A network of a study.

    Attributes:
        title: Its name in tables and figures.
        base: The file of the trunk's config, ``resnet``, ``swin`` or ``efficientnet_lite``.
            Its entry with the name of a set of videos changes the config for that set.
        changes: What it changes in that config, as of ``--cfg-options``.
        colour: Its colour in figures.
    """

    title: str
    base: str
    changes: dict[str, Any]
    colour: str = '#000000'


_BETWEEN, _PARTS = 'model.backbone.between_frames', 'model.backbone.temporal_parts'
_STAGES = 'model.backbone.stage_with_sifa'
_SLOW_OFFSETS = dict(custom_keys=dict(conv_offset=dict(lr_mult=0.1)))
_SIFA_BOTH_WAYS = dict(type='SIFA', bidirectional=True, softmax=True)
_BOTH_WAYS = {_BETWEEN: _SIFA_BOTH_WAYS, 'optim_wrapper.paramwise_cfg': _SLOW_OFFSETS}

NETWORKS = {
    'c2d': Network('C2D', 'resnet', {_BETWEEN: dict(type='torch.nn.Identity')}, '#888888'),
    'temporal_conv': Network(
        'temporal convolution', 'resnet', {_BETWEEN: dict(type='TemporalConv')}, '#1f77b4'
    ),
    'temporal_conv_twice': Network(
        'temporal convolution, twice',
        'resnet',
        {_BETWEEN: dict(type='TemporalSequential', parts=[dict(type='TemporalConv')] * 2)},
        '#08306b',
    ),
    'tsm': Network('TSM', 'resnet', {_BETWEEN: dict(type='TemporalShift')}, '#17becf'),
    'undeformed': Network(
        'attention, not deformed',
        'resnet',
        {_BETWEEN: dict(type='SIFA', deformable=False)},
        '#bcbd22',
    ),
    'unscaled': Network(
        'attention, no motion rescaling',
        'resnet',
        {_BETWEEN: dict(type='SIFA', motion_rescaling=False)},
        '#ff7f0e',
    ),
    'sifa': Network('SIFA', 'resnet', {}, '#d62728'),
    'sifa_slow_offsets': Network(
        'SIFA, offsets learnt at a tenth',
        'resnet',
        {'optim_wrapper.paramwise_cfg': _SLOW_OFFSETS},
        '#8c564b',
    ),
    'sifa_softmax': Network(
        'SIFA, softmax', 'resnet', {_BETWEEN: dict(type='SIFA', softmax=True)}, '#e377c2'
    ),
    'sifa_taps': Network(
        'SIFA, tap embedding',
        'resnet',
        {_BETWEEN: dict(type='SIFA', tap_embedding=True)},
        '#9467bd',
    ),
    'sifa_both_ways': Network('SIFA, both ways, softmax', 'resnet', _BOTH_WAYS, '#2ca02c'),
    'sifa_both_ways_conv': Network(
        'SIFA, both ways, then convolution',
        'resnet',
        {
            **_BOTH_WAYS,
            _BETWEEN: dict(
                type='TemporalSequential', parts=[_SIFA_BOTH_WAYS, dict(type='TemporalConv')]
            ),
        },
        '#006d2c',
    ),
    'sifa_both_ways_from_frames': Network(
        'SIFA, both ways, from frames',
        'resnet',
        {**_BOTH_WAYS, 'start': IMAGE},
        '#dbdb8d',
    ),
    'sifa_both_ways_from_scratch': Network(
        'SIFA, both ways, from scratch',
        'resnet',
        {**_BOTH_WAYS, 'trunk': None},
        '#c49c94',
    ),
    'sifa_layer2': Network(
        'SIFA, second stage only', 'resnet', {_STAGES: (False, True, False)}, '#f7b6d2'
    ),
    'sifa_layer3': Network(
        'SIFA, third stage only', 'resnet', {_STAGES: (False, False, True)}, '#98df8a'
    ),
    'sifa_from_scratch': Network('SIFA, from scratch', 'resnet', {'trunk': None}),
    'swin_conv': Network(
        'Swin, temporal convolution', 'swin', {_PARTS: ('convolution', 'convolution')}, '#1f77b4'
    ),
    'swin_sifa': Network('Swin, SIFA', 'swin', {_PARTS: ('attention', 'attention')}, '#d62728'),
    'swin_both': Network('Swin, both', 'swin', {_PARTS: ('attention', 'convolution')}, '#2ca02c'),
    'lite_c2d': Network(
        'Lite0', 'efficientnet_lite', {_BETWEEN: dict(type='torch.nn.Identity')}, '#888888'
    ),
    'lite_temporal_conv': Network(
        'Lite0, temporal convolution',
        'efficientnet_lite',
        {_BETWEEN: dict(type='TemporalConv')},
        '#1f77b4',
    ),
    'lite_tsm': Network(
        'Lite0, TSM', 'efficientnet_lite', {_BETWEEN: dict(type='TemporalShift')}, '#17becf'
    ),
    'lite_sifa_slow_offsets': Network(
        'Lite0, SIFA with LayerNorm', 'efficientnet_lite', {}, '#8c564b'
    ),
    'lite_sifa_both_ways': Network(
        'Lite0, SIFA, both ways, softmax',
        'efficientnet_lite',
        {_BETWEEN: _SIFA_BOTH_WAYS},
        '#2ca02c',
    ),
}
# What both trunks learn real videos by; --quick takes the first three
_ON_VIDEOS = ('sifa_both_ways', 'temporal_conv', 'c2d', 'tsm', 'sifa_slow_offsets')
LITE_MODELS = tuple(f'lite_{model}' for model in _ON_VIDEOS)
# What weights to start from are worth
TRANSFER_MODELS = ('sifa_both_ways_from_frames', 'sifa_both_ways_from_scratch')
DRAWN_MODELS = tuple(m for m in NETWORKS if m not in (*TRANSFER_MODELS, *LITE_MODELS))
FIRST_SEED_ONLY = (*TRANSFER_MODELS, *LITE_MODELS)
VIDEO_MODELS = {
    'gestures': (*_ON_VIDEOS, 'sifa_both_ways_conv', *TRANSFER_MODELS, *LITE_MODELS),
    'ucf10': LITE_MODELS,
}

# Networks of single frames, whose weights the others start from. The Swin takes longer to learn.
TRUNKS = {
    'c2d': NETWORKS['c2d'],
    'swin_2d': Network('Swin', 'swin', {'iterations': 6000, _PARTS: (None, None)}),
}


@dataclass(frozen=True)
class Run:
    """A network that is trained and tested on a task.

    Args:
        task: A key of ``TASKS`` or ``VIDEO_TASKS``, or ``IMAGE``.
        model: A key of ``NETWORKS``, for ``IMAGE`` one of ``TRUNKS``.
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
    """The runs of a study: trunks on single frames, then models on tasks, with several seeds.

    A network starts from the weights that its trunk, ``trunk`` in its config, has after ``IMAGE``,
    or from its own after another task, which ``start`` names in its config, or else in the task's.

    Args:
        out: The study's folder.
        configs: The folder of ``schedule.py``, of the trunks and of ``tasks``.
        quick: Whether there are three models and one seed, a part of each set of videos, shorter
            trainings on single frames and on videos and fewer clips to test with.
            Default: False.
        videos: A folder of sets of ``VIDEO_SETS``, whose tasks come then. Default: None.
        options: What to change in all configs, as of ``--cfg-options``. Default: {}.

    Example:
        >>> study = Study(getfixture('tmp_path'), CONFIGS, quick=True)
        >>> len(study.runs), study.runs[0]
        (7, Run(task='image', model='c2d', seed=0))
        >>> study.start(Run('direction', 'sifa', 2))
        Run(task='image', model='c2d', seed=0)
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
        """All runs; those from which others start come first, then those of the first seed."""
        seeds = SEEDS[:1] if self.quick else SEEDS
        tasks = {task: QUICK_MODELS if self.quick else DRAWN_MODELS for task in TASKS}
        for name in sets_in(self.videos) if self.videos else ():
            for part in self.parts(name):
                tasks[f'{name}.{part}'] = VIDEO_MODELS[name][: 3 if self.quick else None]
        runs = [
            Run(task, model, seed)
            for seed in seeds
            for task, models in tasks.items()
            for model in models
            if seed == SEEDS[0] or model not in FIRST_SEED_ONLY
        ]
        starts = [start for run in runs if (start := self.start(run))]
        return list(dict.fromkeys(starts + runs))

    @property
    def kind(self) -> str:
        """``'quick'`` or ``'full'``."""
        return 'quick' if self.quick else 'full'

    def parts(self, name: str) -> tuple[str, ...]:
        """Return the parts of a set of videos that are tested."""
        return VIDEO_SETS[name].parts[: 1 if self.quick else None]

    def folder(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.out / 'runs' / run.name

    def start(self, run: Run) -> Run | None:
        """Return the run whose weights a run starts from, None for none."""
        network = self._config_parts[run.model]
        if run.task == IMAGE or not network.trunk:
            return None
        task = self._config_parts[run.task.partition('.')[0]]
        start = network.get('start', task.get('start', IMAGE))
        if start == IMAGE:
            return Run(IMAGE, network.trunk, SEEDS[0])
        return Run(start, run.model, run.seed)

    def weights(self, run: Run) -> Path:
        """Return the file of a run's weights."""
        return self.folder(run) / 'epoch_1.pth'

    @config_errors()
    def config(self, run: Run) -> Config:
        """Put the config of a run together.

        Args:
            run: The run.

        Returns:
            The whole config, which MMAction2's tools can train and test.

        Raises:
            ValueError: If there are no videos for a task that needs them, or an option has no place
                or a wrong value, or changes a variable that entries were made of.
        """
        task, _, part = run.task.partition('.')
        network = self._network(run.model)
        config = self._task(task)
        config.merge_from_dict(network._cfg_dict)
        changes = {name: config.pop(name, {}) for name in VIDEO_SETS}
        config.merge_from_dict(changes.get(task, {}))
        quick = {name: config.pop(f'quick_{name}', None) for name in ('iterations', 'test_clips')}
        if self.quick:
            config.update({name: count for name, count in quick.items() if count})
        if config.get('head'):
            config.model.cls_head.update(config.head)
        for name in self.options:
            made = name in config and not isinstance(config[name], dict)
            if (made and name not in CHANGEABLE) or name.startswith('head.'):
                raise ValueError(
                    f'{name} has no effect as an option, entries were made of it already: change '
                    'those, as optim_wrapper.optimizer.lr or model.cls_head.dropout_ratio, or a '
                    'copy of the configs (--configs)'
                )
        change_config(config, self.options)
        if self.videos and task in VIDEO_SETS:
            config.classes = class_names(self.videos, task)
            config.num_classes = len(config.classes)
        config.model.cls_head.num_classes = config.num_classes
        config.train_dataloader.batch_size = config.batch_size
        config.randomness = dict(seed=run.seed)
        config.study = dict(folder=str(self.out.absolute()))
        if start := self.start(run):
            weights = str(self.weights(start).absolute())
            config.study.start = self.digest(start)
            other = config.model.backbone.get('init_cfg', [])
            config.model.backbone.init_cfg = [
                *([other] if isinstance(other, dict) else other),
                dict(type='Pretrained', checkpoint=weights, prefix='backbone.'),
            ]
        train = config.train_dataloader.dataset
        tests = [config[f'{split}_dataloader'].dataset for split in ('val', 'test')]
        clips = config.iterations * config.batch_size
        if run.task not in VIDEO_TASKS:
            train.update(num_clips=clips, seed=run.seed)
            for test in tests:
                test.num_clips = config.test_clips
            return config
        if self.videos is None:
            raise ValueError(f'{run.task} needs a folder of videos, --videos')
        config.study.videos = str(self.videos.absolute())
        config.clips = split_clips(self.videos, task, part)
        train.times = max(1, round(clips / len(config.clips.train)))
        prefix = dict(video=str((self.videos / task).absolute()))
        for dataset, split in ((train.dataset, 'train'), *((test, 'val') for test in tests)):
            dataset.ann_file = str(self.folder(run).absolute() / LIST.format(split))
            dataset.data_prefix = prefix
        return config

    def digest(self, run: Run) -> str:
        """Return a number that is another one if the config of a run is another one.

        Args:
            run: The run.

        Returns:
            See :func:`digest`.
        """
        if run not in self._digests:
            self._digests[run] = digest(self.config(run))
        return self._digests[run]

    def write(self, run: Run) -> None:
        """Write ``config.py`` into the folder of a run, and lists of videos where it needs them.

        Args:
            run: The run.
        """
        config, folder = self.config(run), self.folder(run)
        if run.task in VIDEO_TASKS:
            for split, clips in config.clips.items():
                write_list(folder / LIST.format(split), clips)
        write_atomically(folder / 'config.py', config.pretty_text)

    @cached_property
    def _digests(self) -> dict[Run, str]:
        return {}

    @cached_property
    def _config_parts(self) -> dict[str, Config]:
        """The parts of configs that are those of tasks and of networks."""
        tasks = {task: self._task(task) for task in (*TASKS, *VIDEO_SETS)}
        return tasks | {model: self._network(model) for model in NETWORKS | TRUNKS}

    def _task(self, task: str) -> Config:
        """The part of a config that is the task's."""
        return Config.fromfile(self.configs / f'tasks/{task}.py')

    def _network(self, model: str) -> Config:
        """The part of a config that is the network's."""
        network = (NETWORKS | TRUNKS)[model]
        config = Config.fromfile(self.configs / f'{network.base}.py')
        config.merge_from_dict(deepcopy(network.changes))
        return config


def write_list(file: Path, clips: Iterable[tuple[str, int]]) -> None:
    """Write a list of videos and their labels, as the configs of real videos read it.

    Args:
        file: The file.
        clips: Their paths within the set, and their labels.
    """
    lines = [f'{name}{DELIMITER}{label}\n' for name, label in clips]
    write_atomically(file, ''.join(lines))


def digest(config: Config) -> str:
    """Return a number that is another one for another config.

    Args:
        config: A config of :meth:`Study.config`; the study's folder and that of the videos do not
            count, nor the modules that are imported.

    Returns:
        16 hexadecimal digits; for real videos, behind a dash, as many for the clips that there are.
    """
    ignored = ('work_dir', 'custom_imports')
    entries = {key: value for key, value in config.to_dict().items() if key not in ignored}
    parts = [entries]
    if 'clips' in entries:
        parts.append({name: entries.pop(name) for name in ('clips', 'classes')})
        del entries['train_dataloader']['dataset']['times']  # of their number
    digests = []
    for part in parts:
        text = json.dumps(part, sort_keys=True)
        for name in ('folder', 'videos'):
            if name in config.study:
                text = text.replace(json.dumps(config.study[name])[1:-1], '')
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return '-'.join(digests)
