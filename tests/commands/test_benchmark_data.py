"""What loading a clip costs, step by step, and the advice that follows."""

import gc
import json
import mmap
import signal
import time
from multiprocessing import parent_process

import pytest
import torch
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from mmsifa.__main__ import main
from mmsifa.commands import benchmark_data

HEAD = """
default_scope = 'mmaction'
custom_imports = dict(imports=['mmsifa'], allow_failed_imports=False)
model = dict(type='Recognizer2D')
"""
TAIL = """
    dict(type='Resize', scale=(16, 16), keep_ratio=False),
    dict(type='RandomApply', prob=0.5, transforms=[dict(type='ClipGrayscale')]),
    dict(type='FormatShape', input_format='{form}'),
    dict(type='PackActionInputs')]
train_dataloader = dict(batch_size=2, dataset={dataset})
"""
VIDEOS = (
    HEAD
    + "pipeline = [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=4),"
    + "dict(type='DecordDecode'), "
    + TAIL.format(
        form='NCTHW', dataset="dict(type='CheckedVideoDataset', ann_file='no', pipeline=pipeline)"
    )
)
FRAMES = (
    HEAD
    + "pipeline = [dict(type='SampleFrames', clip_len=1, num_clips=3), dict(type='RawFrameDecode'),"
    + TAIL.format(
        form='NCHW',
        dataset="dict(type='RepeatDataset', times=2, dataset=dict(type='RawframeDataset', "
        "ann_file='no', data_prefix=dict(img=''), filename_tmpl='{:05}.jpg', pipeline=pipeline))",
    )
)


@pytest.fixture
def benchmark(tmp_path, kinetics_like, monkeypatch, capsys):
    """Run the command on a config's text; return the exit code, what it prints, and the report."""
    monkeypatch.chdir(tmp_path)

    def benchmark(config, *arguments, kind='VideoDataset', seconds=0):
        (tmp_path / 'config.py').write_text(config)
        path, prefix = kinetics_like[kind]
        words = ['config.py', path, '--data-root', *prefix.values(), '--clips', 8, '--workers', 0]
        words += [1, '--seconds', seconds, '--out', 'costs.json', *arguments]
        try:
            code = main(['benchmark-data', *map(str, words)])
        except SystemExit as ended:
            return ended.code, capsys.readouterr().err, None
        return code, capsys.readouterr().out, json.loads((tmp_path / 'costs.json').read_text())

    return benchmark


AFTER = ['Resize', 'RandomApply(ClipGrayscale)', 'FormatShape', 'PackActionInputs', 'whole clip']


@pytest.mark.parametrize(
    ('config', 'kind', 'steps'),
    [
        (VIDEOS, 'VideoDataset', ['DecordInit', 'SampleFrames', 'DecordDecode']),
        (FRAMES, 'RawframeDataset', ['SampleFrames', 'RawFrameDecode']),
    ],
    ids=['videos, 3D', 'raw frames, 2D'],
)
def test_every_step_of_a_pipeline_is_timed(config, kind, steps, benchmark, tmp_path):
    code, printed, report = benchmark(config, '--clips-per-second', '1e6', kind=kind, seconds=0.1)
    assert code == 0
    assert [step['step'].split(' ', 1)[-1] for step in report['steps'][:-1]] == steps + AFTER[:-1]
    assert report['steps'][-1]['step'] == AFTER[-1]
    for clock in ('wall_ms', 'cpu_ms'):
        *parts, whole = (step[clock] for step in report['steps'])
        assert 0 < sum(part['mean'] for part in parts) < whole['mean']
        assert all(part['median'] <= part['p95'] for part in (*parts, whole))
    assert report['shape'][-2:] == [16, 16]
    assert [loader['workers'] for loader in report['loaders']] == [0, 1]
    for loader in report['loaders']:
        share = 1 - loader['clips_per_second'] / 1e6
        assert loader['training_waits'] == pytest.approx(share, abs=1e-3)
        assert 0 < loader['clips_per_second'] < 1e6
    assert all(step['step'] in printed for step in report['steps'])
    assert all(sentence in printed for sentence in report['advice'])
    assert (tmp_path / 'costs.png').read_bytes().startswith(b'\x89PNG')


@TRANSFORMS.register_module()
class Rests(BaseTransform):
    """Rests, keeps memory, crashes, or fails after the steps are timed."""

    def __init__(self, seconds=0, mib=0, crashes=False, fails=False):
        if seconds < 0:
            raise RuntimeError('Install pytorchvideo')
        self.seconds, self.mib, self.crashes, self.kept = seconds, mib, crashes, []
        self.fails = fails

    def transform(self, results):
        time.sleep(self.seconds)
        if self.fails and parent_process() is None:
            raise FileNotFoundError(2, 'No such file or directory', 'a.mp4')
        if self.mib:
            if len(self.kept) == 1:
                gc.collect()
            self.kept.append(mmap.mmap(-1, self.mib * 2**20))  # not what was free before
            self.kept[-1].write(bytes(self.mib * 2**20))
        if self.crashes:
            signal.raise_signal(signal.SIGKILL)
        return results


def resting(**options):
    return VIDEOS.replace("dict(type='FormatShape'", f"dict(type='Rests', **{options}), dict(type='FormatShape'")  # fmt: skip  # noqa: E501


def after_littering(function):
    """Leave garbage for the process that the function forks."""

    def littering(*arguments):
        gc.disable()
        litter = [b'x' * 2**26]
        litter.append(litter)
        del litter
        try:
            return function(*arguments)
        finally:
            gc.enable()

    return littering


def test_a_step_that_waits_takes_no_cpu_time_and_its_memory_is_seen(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark_data, 'step_costs', after_littering(benchmark_data.step_costs))
    _, printed, report = benchmark(resting(seconds=0.03, mib=4))
    (step,) = (step for step in report['steps'] if step['step'].endswith('Rests'))
    assert 30 <= step['wall_ms']['median'] <= report['steps'][-1]['wall_ms']['median']
    assert step['cpu_ms']['median'] < 15
    assert report['memory']['grows']
    assert 3000 < report['memory']['mib_per_1000_clips'] < 6000
    assert 'A process grows by' in printed
    assert not benchmark(VIDEOS)[2]['memory']['grows']


def test_the_advice_follows_from_the_numbers():
    def advice(took, waits=(0.4, 0.0), grows=False, prepared=False):
        steps = [
            {'step': name, 'wall_ms': {'mean': mean}, 'cpu_ms': {'mean': mean}}
            for name, mean in (took | {'whole clip': 20}).items()
        ]
        return benchmark_data.advice(
            {
                'steps': steps,
                'prepared': prepared,
                'training_clips_per_second': 120,
                'loaders': [{'workers': 2**i, 'training_waits': w} for i, w in enumerate(waits)],
                'memory': {'grows': grows, 'mib_per_1000_clips': 70.0},
            }
        )

    decoding = {'DecordInit': 4, 'SampleFrames': 1, 'DecordDecode': 10}
    known = ['A core loads 50.0 clips a second', '120 clips a second take 3 cores']
    assert advice(decoding) == [
        *known, 'Workers that suffice: 2', 'Decoding is 70%: see mmsifa prepare-videos'
    ]  # fmt: skip
    assert advice(decoding, prepared=True)[-1] == 'Decoding is 70%, of prepared videos'
    waits = 'With 2 workers the training waits for 30% of the time'
    assert advice({'RawFrameDecode': 12}, (0.4, 0.3)) == [
        *known, waits, 'Reading pictures is 60%: smaller ones load faster'
    ]  # fmt: skip
    assert advice({'RandomApply(ClipColorJitter)': 4, 'ClipGaussianBlur': 1}, grows=True)[3:] == [
        'Color jitter, grey and blur are 25%: see ClipAugmentation',
        'A process grows by 70 MiB in 1,000 clips',
    ]


def test_the_training_is_measured_by_steps_of_the_configs_batch(benchmark):
    small = "_base_ = 'mmsifa::sifa_tiny_motion.py'\ntrain_dataloader = dict(batch_size=2)"
    _, printed, report = benchmark(small, '--measure-training')
    speed = report['training'].pop('clips_per_second')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert report['training'] == {'device': device, 'dtype': 'float32', 'batch_size': 2}
    assert f'A training step takes 2 clips, {speed:g} a second ({device}, float32)' in printed
    assert report['training_clips_per_second'] == speed > 0


@pytest.mark.parametrize(
    ('config', 'arguments', 'code', 'message'),
    [
        (HEAD, [], 2, "the config cannot be used (AttributeError: 'ConfigDict' object has no"),
        (VIDEOS, ['--cfg-options', 'train_dataloader.dataset.type=No'], 2, 'No is not in the'),
        (VIDEOS, ['--clips', '3'], 2, '--clips must be 4 or more, got 3'),
        (VIDEOS, ['--seconds', 'nan'], 2, '--seconds must be 0 or more, got nan'),
        (VIDEOS, ['--workers', '-1'], 2, '--workers must be 0 or more, got -1'),
        (VIDEOS, ['--out', 'costs.png'], 2, '--out must be the name of a JSON file'),
        (VIDEOS, ['--out', '/proc/costs.json'], 2, 'cannot be written'),
        (VIDEOS, ['--data-root', '.'], 1, '.mp4 cannot be read (DecordInit: [Errno 2] No such'),
        (
            VIDEOS.replace("dict(type='DecordInit'),", '').replace('Checked', ''),
            [],
            1,
            ".mp4 does not load (SampleFrames: 'total_frames')",
        ),
        (VIDEOS, ['--measure-training'], 1, "missing 1 required positional argument: 'backbone'"),
        (VIDEOS, ['--measure-training', '--clips-per-second', '3'], 2, 'not allowed with argument'),
        (resting(seconds=-1), [], 2, 'Install pytorchvideo'),
        (resting(fails=True), [], 1, "No such file or directory: 'a.mp4'"),
        (resting(crashes=True), [], 1, 'it crashes the decoder (SIGKILL)'),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    config, arguments, code, message, benchmark, tmp_path
):
    found, printed, _ = benchmark(config, *arguments)
    assert (found, message in printed) == (code, True), printed
    assert 'Traceback' not in printed
    assert {path.name for path in tmp_path.iterdir()} <= {'config.py', '__pycache__'}
