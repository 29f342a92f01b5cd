"""The runs of a study, each in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import mmaction
import mmengine
import numpy as np
import torch
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, ValLoop
from numpy.typing import NDArray
from torch.nn import functional

from mmsifa.apis.analysis import count_multiply_adds, total
from mmsifa.datasets.pipelines import Clip
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.installation import __version__
from mmsifa.models import SIFA
from study.charts import draw_cases, find_cases
from study.offsets import fit_motion, measure_offsets, watch
from study.plan import LIST, SEEDS, Run, Study, digest, write_list
from study.real_videos import sets_in, split_clips
from study.synthetic import SyntheticClips

RUN = 'import sys, pathlib, study; study.train_and_test(pathlib.Path(sys.argv[1]))'
PROJECT = str(Path(__file__).parents[1])  # where this package is found
CURVE_POINTS = 48
FIT_CLIPS, FIT_STREAM = 384, 2  # clips of neither training nor test, no more than the test has
POLL = 0.2  # seconds


def train_and_test(folder: Path) -> dict:
    """Train and test what a run's ``config.py`` says, and write ``result.json`` and ``cases.png``.

    Args:
        folder: The run's folder, in which MMEngine's logs and the weights come, too.

    Returns:
        The result, as it is written.

    Raises:
        RuntimeError: If a signal ended the training early.
    """
    config = Config.fromfile(folder / 'config.py')
    result = dict(digest=digest(config), seed=config.randomness.seed)
    config.work_dir = str(folder)
    torch.set_num_threads(1)
    start = time.process_time()
    runner = Runner.from_cfg(config)
    runner.train()
    if runner.iter < runner.max_iters:
        raise RuntimeError(f'stopped after {runner.iter} of {runner.max_iters} iterations')
    scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
    accuracy = {n.removeprefix('val/acc/'): v[-1] for n, v in scalars.items() if 'val/acc' in n}
    losses = np.array_split(scalars['train/loss'], min(CURVE_POINTS, len(scalars['train/loss'])))
    result.update(
        num_classes=config.num_classes,
        iterations=runner.iter,
        top1=float(accuracy.pop('top1')),
        by_displacement={
            name.removeprefix('displacement='): float(value)
            for name, value in accuracy.items()
            if name.startswith('displacement=')
        },
        disturbed={
            name: _top1_of(runner, change)
            for name, change in config.get('disturbances', {}).items()
        },
        loss=[float(part.mean()) for part in losses],
        offsets=[],
        seconds=time.process_time() - start,
        device=str(next(runner.model.parameters()).device.type),
        versions=dict(
            mmsifa=__version__,
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmaction=mmaction.__version__,
        ),
    )
    clips = runner.val_dataloader.dataset
    if not isinstance(clips, SyntheticClips):
        frames, height, width = clips[0]['inputs'].shape[2:]
        counts = count_multiply_adds(runner.model.eval(), Clip(frames, height, width, ''))
        result.update(
            multiply_adds=total(counts), classes=config.classes, confusion=_confusion(runner)
        )
    attends = any(isinstance(module, SIFA) for module in runner.model.modules())
    if attends and isinstance(clips, SyntheticClips):
        count = min(FIT_CLIPS, len(clips))
        others = dict(runner.cfg.val_dataloader.dataset, stream=FIT_STREAM, num_clips=count)
        seen = watch(runner.model, clips, fit_motion(runner.model, DATASETS.build(others)))
        result['offsets'] = measure_offsets(seen)
        cases = find_cases(seen)
        if len(cases) > 1:
            write_atomically(folder / 'cases.png', draw_cases(cases))
    write_atomically(folder / 'result.json', json.dumps(result, indent=1, allow_nan=False) + '\n')
    return result


def _top1_of(runner: Runner, change: dict) -> float:
    """Test on clips of a data set that is changed."""
    loader = dict(runner.cfg.val_dataloader)
    loader['dataset'] = dict(loader['dataset'], **change)
    return float(ValLoop(runner, loader, runner.cfg.val_evaluator).run()['acc/top1'])


@torch.no_grad()
def _confusion(runner: Runner) -> list[list[int]]:
    """Count the held-out clips of each class (rows) by what the network takes them for."""
    runner.model.eval()
    counts = np.zeros((runner.cfg.num_classes, runner.cfg.num_classes), int)
    for batch in runner.val_dataloader:
        for sample in runner.model.val_step(batch):
            counts[sample.gt_label.item(), sample.pred_score.argmax().item()] += 1
    return counts.tolist()


def measure_svms(study: Study) -> dict:
    """Test a support vector machine on each set of real videos, and write ``svms.json``.

    It sees where clips change: absolute differences of frames that are grey and have a sixteenth of
    the pixels, scaled to a length of 1. It needs scikit-learn.

    Args:
        study: A study with ``videos``.

    Returns:
        What the file holds: for each set the number of test ``clips``, ``top1`` accuracy, and that
        with ``shuffled`` frames.
    """
    from sklearn.svm import SVC

    assert study.videos
    svms = {}
    for name in sets_in(study.videos):
        parts = study.parts(name)
        splits = [split_clips(study.videos, name, part) for part in parts]
        clips = splits[0]['train'] + splits[0]['val']
        labels = np.array([label for _, label in clips])
        file = study.out / LIST.format(name)
        write_list(file, clips)
        config = study.config(Run(f'{name}.{parts[0]}', 'c2d', SEEDS[0]))
        dataset = dict(config.val_dataloader.dataset, ann_file=str(file))
        with DefaultScope.overwrite_default_scope('mmaction'):
            seen = [_changes(dataset), _changes(dict(dataset, **config.disturbances.shuffled))]
        right = []
        for split in splits:
            train, test = ([clips.index(clip) for clip in split[s]] for s in ('train', 'val'))
            svm = SVC().fit(seen[0][train], labels[train])
            right.append([svm.predict(features[test]) == labels[test] for features in seen])
        top1, shuffled = np.concatenate(right, axis=1).mean(axis=1).tolist()
        svms[name] = dict(
            clips=sum(len(split['val']) for split in splits), top1=top1, shuffled=shuffled
        )
    write_atomically(study.out / 'svms.json', json.dumps(svms, indent=1) + '\n')
    return svms


def _changes(dataset: dict) -> NDArray:
    """Features (clips, N) of an SVM."""
    clips = DATASETS.build(dataset)
    features = []
    for number in range(len(clips)):
        grey = clips[number]['inputs'][0].float().mean(dim=0)
        change = functional.avg_pool2d(grey, 4).diff(dim=0).abs()
        features.append(functional.normalize(change.flatten(), dim=0))
    return torch.stack(features).numpy()


def is_finished(study: Study, run: Run) -> bool:
    """Return whether a run has a result, of the config that it has now."""
    file = study.folder(run) / 'result.json'
    return file.is_file() and json.loads(file.read_text())['digest'] == study.digest(run)


def missing_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Tell what there is to do.

    Args:
        study: The study.
        runs: The runs that shall have a result.

    Returns:
        Those that have none, of the config that they have now, after the runs whose weights they
        start from and which are not there.
    """
    missing: dict[Run, None] = {}

    def need(run: Run, weights: bool = False) -> None:
        if is_finished(study, run) and (study.weights(run).is_file() or not weights):
            return
        if start := study.start(run):
            need(start, weights=True)
        missing[run] = None

    for run in runs:
        need(run)
    return list(missing)


def work_through(
    study: Study, runs: Sequence[Run], jobs: int = 1, device: str = 'cpu'
) -> Generator[tuple[Run, bool], None, None]:
    """Run what is missing, several at a time, each after the run whose weights it starts from.

    All that a run prints goes into ``log.txt`` in its folder. Runs that are under way end
    with the iteration, as when the generator is closed.

    Args:
        study: The study.
        runs: The runs; what one of them starts from is among them or has its weights.
        jobs: How many run at a time, with one CPU thread each. Default: 1.
        device: ``'cpu'`` or ``'cuda'``. Default: ``'cpu'``.

    Yields:
        Each run when it ends, and whether it has a result.
    """
    waiting = list(runs)
    running: dict[Run, subprocess.Popen] = {}
    try:
        while waiting or running:
            free = jobs - len(running)
            busy = {*waiting, *running}
            for run in [run for run in waiting if study.start(run) not in busy][:free]:
                running[run] = _start(study, run, device)
                waiting.remove(run)
            ended = [run for run, process in running.items() if process.poll() is not None]
            for run in ended:
                yield run, running.pop(run).returncode == 0
            if not ended:
                time.sleep(POLL)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(study: Study, run: Run, device: str) -> subprocess.Popen:
    folder = study.folder(run)
    (folder / 'result.json').unlink(missing_ok=True)
    study.write(run)
    path = os.pathsep.join(filter(None, [PROJECT, os.environ.get('PYTHONPATH')]))
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONPATH=path)
    if device == 'cpu':
        env['CUDA_VISIBLE_DEVICES'] = ''
    with (folder / 'log.txt').open('w') as log:
        command = [sys.executable, '-c', RUN, str(folder)]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
