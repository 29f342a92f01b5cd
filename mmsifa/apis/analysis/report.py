"""Reports on several recognizers: counted one by one, timed in turns."""

import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mmaction
import mmengine
import torch
from rich.progress import Progress

from mmsifa.apis.analysis.complexity import total
from mmsifa.apis.analysis.measurement import (
    PASSES,
    MeasurementError,
    MeasuringProcess,
    describe,
    prepare,
    run,
)
from mmsifa.installation import __version__


@dataclass(frozen=True)
class ReportSettings:
    """How recognizers are measured.

    Args:
        device: Where they run, ``'cpu'`` or ``'cuda'``. Defaults to the CPU.
        dtype: ``'float32'``, or ``'bfloat16'`` for autocast. Defaults to float32.
        batch_size: Clips of a batch. Defaults to 1.
        rounds: Rounds in which all take turns; the median counts. 0 only counts multiply-adds and
            parameters. Defaults to 3.
        seconds: How long a turn lasts at least. Defaults to 1.
        side: Height and width of the frames. Defaults to those of each config.
    """

    device: str = 'cpu'
    dtype: str = 'float32'
    batch_size: int = 1
    rounds: int = 3
    seconds: float = 1.0
    side: int | None = None


def processor_name() -> str:
    """Return the name of the CPU."""
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def make_report(configs: Mapping[str, str], settings: ReportSettings, progress: Progress) -> dict:
    """Describe, count and measure recognizers.

    Each is counted in a process of its own. To be measured, each gets another one that lives to
    the end of the report, holding weights and optimizer state; first all warm up, then they take
    turns, so that whatever slows the machine down slows all alike. Only one runs at a time.

    Args:
        configs: What :func:`mmsifa.apis.load_config` takes, by the labels of the report.
        settings: How they are measured.
        progress: Where the progress is shown.

    Returns:
        The report, ready for JSON: ``environment``, ``models`` and ``failed``. The latter has
        label, pass and reason of whatever did not build or run; all else is complete.
    """
    failed: list[dict] = []
    models = _count(configs, settings, progress, failed)
    if settings.rounds:
        models = _measure(models, settings, progress, failed)
    return {'environment': _environment(settings), 'models': models, 'failed': failed}


def _environment(settings: ReportSettings) -> dict:
    on_gpu = settings.device != 'cpu'
    return {
        'device': torch.cuda.get_device_name(settings.device) if on_gpu else processor_name(),
        'threads': torch.get_num_threads(),
        'vectors': torch.backends.cpu.get_cpu_capability(),
        'dtype': settings.dtype,
        'batch_size': settings.batch_size,
        'rounds': settings.rounds,
        'memory': 'allocated' if on_gpu else 'resident',
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'mmaction': mmaction.__version__,
        'mmsifa': __version__,
    }


def _count(
    configs: Mapping[str, str], settings: ReportSettings, progress: Progress, failed: list[dict]
) -> list[dict]:
    models = []
    task = progress.add_task('Counting', total=len(configs))
    for label, config in configs.items():
        progress.update(task, description=f'{label}: counting')
        with MeasuringProcess('cpu') as worker:
            try:
                models.append({'label': label, **worker(describe, config, settings.side)})
            except MeasurementError as error:
                failed.append({'label': label, 'pass': 'counting', 'reason': str(error)})
        progress.advance(task)
    progress.update(task, description='Counting')
    return models


class _Turns:
    """The turns of one recognizer."""

    def __init__(self, model: dict, settings: ReportSettings) -> None:
        self.model = model
        self.settings = settings
        self.seconds: dict[str, list[float]] = {name: [] for name in PASSES}
        self.memory: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self.worker: MeasuringProcess | None = None

    def take(self, name: str, seconds: float) -> None:
        """Run a pass, unless it has failed before."""
        if name in self.failures:
            return
        try:
            result = self._prepared_worker()(run, name, seconds)
        except MeasurementError as error:
            self.failures[name] = str(error)
            self.close()  # whatever state it is in
            return
        if name in self.memory:  # the first run, which warms up, counts for memory alone
            self.seconds[name].append(result['seconds'])
        self.memory.setdefault(name, result['memory'])

    def _prepared_worker(self) -> MeasuringProcess:
        if self.worker is None:
            settings = self.settings
            self.worker = MeasuringProcess(settings.device)
            self.model['optimizer'] = self.worker(
                prepare,
                self.model['config'],
                *(settings.side, settings.device, settings.dtype, settings.batch_size),
            )
        return self.worker

    def results(self) -> dict:
        """Return the report's entries of the passes that went well."""
        entries = {}
        for name, seconds in self.seconds.items():
            if name not in self.failures:
                entries[name] = {
                    'clips_per_second': self.settings.batch_size / statistics.median(seconds),
                    'seconds_of_rounds': seconds,
                    'peak_memory': self.memory[name],
                }
        return entries

    def close(self) -> None:
        """End the process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _measure(
    models: list[dict], settings: ReportSettings, progress: Progress, failed: list[dict]
) -> list[dict]:
    contestants = [_Turns(model, settings) for model in models]
    work = {'forward': 1, 'training step': 3}  # the backward pass is two forward passes' work
    all_work = sum(total(model['multiply_adds']) for model in models) * sum(work.values())
    task = progress.add_task('Measuring', total=all_work * (settings.rounds + 1))
    try:
        for i in range(settings.rounds + 1):
            for turns in contestants:
                for name in PASSES:
                    when = f'round {i} of {settings.rounds}' if i else 'warming up'
                    label = turns.model['label']
                    progress.update(task, description=f'{label}: {name}, {when}')
                    turns.take(name, settings.seconds if i else 0)
                    progress.advance(task, work[name] * total(turns.model['multiply_adds']))
        progress.update(task, description='Measuring')
    finally:
        for turns in contestants:
            turns.close()
    for turns in contestants:
        for name, reason in turns.failures.items():
            failed.append({'label': turns.model['label'], 'pass': name, 'reason': reason})
    return [{**turns.model, **turns.results()} for turns in contestants]
