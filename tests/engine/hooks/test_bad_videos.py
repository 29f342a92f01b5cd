"""Videos that cannot be read: in the data sets, in training and testing, and in check_videos."""

import os
import re
import shutil
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import decord
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms import DecordInit
from mmaction.registry import DATASETS
from mmcv.transforms import BaseTransform
from mmengine import load
from mmengine.config import Config
from mmengine.runner import Runner

from mmsifa.__main__ import main
from mmsifa.commands.check_videos import check
from mmsifa.datasets import CheckedVideoDataset
from mmsifa.datasets.raw_frames import frame_names
from mmsifa.engine.hooks import BadVideosHook
from mmsifa.engine.loops import seed_generators
from mmsifa.fileio.video import UnreadableVideoError, VideoReader

ROOT = Path(__file__).parents[3]


# Files of every kind


def ffmpeg(path, *options, source='testsrc=size=64x64:rate=10:duration=3'):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-y', '-f', 'lavfi', '-i', source]
    subprocess.run([*command, *options, path], check=True)


def encode(*options, source='testsrc=size=64x64:rate=10:duration=3'):
    """A maker of a file that FFmpeg encodes; its index comes first, as for streaming."""
    flags = ('-movflags', '+faststart', *options)
    return lambda path: ffmpeg(path, *flags, source=source)


H264 = ('-c:v', 'libx264', '-pix_fmt', 'yuv420p')


def damage(change, *options):
    """A maker of a file whose bytes are changed after FFmpeg has encoded it."""

    def make(path):
        ffmpeg(path, *(options or H264))
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return make


def garble(content):
    middle = slice(len(content) * 2 // 5, len(content) * 4 // 5)
    noise = np.random.default_rng(0).bytes(len(content[middle]))
    return content[: middle.start] + noise + content[middle.stop :]


def rotate(path):
    encode(*H264, source='testsrc=size=96x64:rate=10:duration=3')(path.with_suffix('.tmp.mp4'))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-display_rotation', '90', '-i']
    source = path.with_suffix('.tmp.mp4')
    subprocess.run([*command, source, '-c', 'copy', path], check=True)
    source.unlink()


FAST = ('-movflags', '+faststart', '-g', '10', *H264)
KINDS = {
    'H.264': encode(*H264),
    'HEVC, 10 bits': encode('-c:v', 'libx265', '-pix_fmt', 'yuv420p10le'),
    'AV1': encode('-c:v', 'libsvtav1', '-pix_fmt', 'yuv420p'),
    'grey': encode('-pix_fmt', 'gray'),
    'odd size, 67 x 45': encode(
        *('-pix_fmt', 'yuv444p'), source='testsrc=size=67x45:rate=10:duration=3'
    ),
    'rotated by its metadata': rotate,
    'one frame': encode(*H264, '-frames:v', '1'),
    'fewer frames than a clip': encode(*H264, '-frames:v', '5'),
    'name with spaces and other letters': encode(*H264),
    'one pixel': encode('-pix_fmt', 'yuv444p', source='testsrc=size=1x1:rate=10:duration=3'),
    'empty file': lambda path: path.write_bytes(b''),
    'text, such as a saved error page': lambda path: path.write_text('404 Not Found\n' * 20),
    'cut off, index at the end': damage(lambda content: content[: len(content) * 2 // 3]),
    'cut off, index at the start': damage(lambda content: content[: len(content) * 2 // 3], *FAST),
    'garbled in the middle': damage(garble, *FAST),
    'sound only': encode(source='sine=duration=2'),
    'no frames': encode(*H264, '-frames:v', '0'),
    'folder': lambda path: path.mkdir(),
    'missing file': lambda path: None,
    'link to nowhere': lambda path: path.symlink_to('nowhere.mp4'),
}


def file_name(kind):
    return 'clip é 中.mp4' if 'letters' in kind else re.sub(r'\W+', '_', kind) + '.mp4'


@pytest.fixture(scope='module')
def kinds(tmp_path_factory):
    """A folder with a file of every kind."""
    folder = tmp_path_factory.mktemp('kinds')
    for kind, make in KINDS.items():
        make(folder / file_name(kind))
    return folder


@pytest.fixture(scope='module')
def outcomes():
    """Kind -> outcome, as the table of docs/data.md says, 'trains' or the possible reasons."""
    page = (ROOT / 'docs/data.md').read_text()
    table = page.partition('<!-- kinds of files -->')[2].partition('\n\n#')[0]
    rows = re.findall(r'^\| (.+?) +\| (.+?) +\|$', table, re.MULTILINE)
    assert all(outcome.startswith(('trains', 'refused: `')) for _, outcome in rows[2:])
    return {kind: re.findall('`(.+?)`', outcome) or outcome for kind, outcome in rows[2:]}


def train_pipeline():
    pipeline = Config.fromfile(ROOT / 'configs/sifa_r50_k400.py').train_pipeline
    pipeline[4].scale = (64, 64)
    return pipeline


def video_dataset(folder, names, type='CheckedVideoDataset', pipeline=None, **options):
    path = folder / 'list.txt'
    path.write_text(''.join(f'{name},{i % 2}\n' for i, name in enumerate(names)))
    prefix = dict(video=str(folder))
    pipeline = train_pipeline() if pipeline is None else pipeline
    cfg = dict(type=type, ann_file=str(path), data_prefix=prefix, delimiter=',')
    return DATASETS.build(dict(cfg, pipeline=pipeline, **options))


def draw_often(dataset):
    for _ in range(100):  # a clip from the start of the file may be whole
        dataset[0]


def test_the_page_lists_every_kind(outcomes):
    assert outcomes.keys() == KINDS.keys()


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file_trains_or_is_named_with_the_reason(kinds, outcomes, kind, tmp_path):
    name = file_name(kind)
    dataset = video_dataset(kinds, [name])
    if outcomes[kind] == 'trains':
        assert tuple(dataset[0]['inputs'].shape) == (1, 3, 16, 64, 64)
        return
    for test_mode in (False, True):
        dataset.test_mode = test_mode
        with pytest.raises(UnreadableVideoError, match=re.escape(name)) as raised:
            draw_often(dataset)
        assert any(f'({reason}' in str(raised.value) for reason in outcomes[kind])


def test_a_file_that_may_not_be_read(kinds, tmp_path):
    path = tmp_path / 'a.mp4'
    path.write_bytes((kinds / file_name('H.264')).read_bytes())
    path.chmod(0)
    dataset = video_dataset(tmp_path, ['a.mp4'])
    user = os.geteuid()
    if user == 0:  # the superuser may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(UnreadableVideoError, match=r'a\.mp4 .*\[Errno 13\] Permission denied'):
            dataset[0]
    finally:
        os.seteuid(user)


def test_the_frames_of_a_rotated_video_are_turned(kinds):
    frame = decord.VideoReader(str(kinds / file_name('rotated by its metadata')))[0]
    assert frame.shape == (96, 64, 3)


# Training and testing go on


BAD = {
    'empty.mp4': 'DecordInit: the file is empty',
    'missing.mp4': 'DecordInit: [Errno 2] No such file or directory',
}


@pytest.fixture(scope='module')
def clips(motion_data, tmp_path_factory):
    """A folder of 16 good clips and an empty file."""
    folder = tmp_path_factory.mktemp('clips')
    for path in (motion_data / 'videos_train').glob('*.mp4'):
        (folder / path.name).symlink_to(path)
    (folder / 'empty.mp4').touch()
    return folder


@pytest.fixture
def write_list(clips, tmp_path):
    """Write a list of good clips, of classes in turn, with bad ones after the first."""

    def write_list(bad=BAD, good=16):
        names = sorted(path.name for path in clips.glob('0*.mp4'))[:good]
        names[1:1] = bad
        path = tmp_path / 'list.txt'
        path.write_text(''.join(f'{name} {i % 8}\n' for i, name in enumerate(names)))
        return path

    return write_list


@pytest.fixture
def config(clips, tmp_path):
    """The small config, with a FaultTolerantVideoDataset of a list for training and testing."""

    def config(path, epochs=1, workers=0, persistent=False, **options):
        cfg = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py')
        cfg.work_dir = str(tmp_path / 'work')
        cfg.experiment_name = tmp_path.name  # or runs of one second share a log
        cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs + 1, val_begin=epochs + 1)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.default_hooks.checkpoint.update(save_best=None, interval=100)
        for split in ('train', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=workers, persistent_workers=persistent, batch_size=4)
            loader.dataset.update(
                type='FaultTolerantVideoDataset',
                ann_file=str(path),
                data_prefix=dict(video=str(clips)),
                **options,
            )
        return cfg

    return config


def log_of(cfg):
    return ''.join(path.read_text() for path in Path(cfg.work_dir).glob('*/*.log'))


def bad_videos(cfg):
    lines = (Path(cfg.work_dir) / 'bad_videos.txt').read_text().splitlines()
    assert lines == sorted(set(lines))
    return {Path(path).name: reason for path, reason in (line.split('\t') for line in lines)}


def assert_listed(cfg, expected=BAD):
    found = bad_videos(cfg)
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert found[name].startswith(reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('workers', 'persistent'),
    [(0, False), (2, False), (2, True)],
    ids=['no workers', 'workers', 'persistent workers'],
)
def test_training_goes_on_and_names_each_bad_video_once(write_list, config, workers, persistent):
    cfg = config(write_list(), epochs=2, workers=workers, persistent=persistent)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2 * 5  # 18 samples in batches of 4: none is lost
    assert_listed(cfg)
    for name, reason in BAD.items():
        assert log_of(cfg).count(f'{name} cannot be read: {reason}') == 1
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, BadVideosHook))
    assert hook.drawn == 2 * 18 + hook.failed
    assert hook.failed >= 2 * 2


def test_two_processes_share_what_they_found_and_stop_together(
    write_list, config, tmp_path, run, forked
):
    bad = [f'missing_{i}.mp4' for i in range(6)]  # in an epoch no process draws more than ten
    cfg = config(write_list(bad), epochs=20, workers=1)
    cfg.dump(tmp_path / 'config.py')
    env = dict(forked, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    mim = shutil.which('mim', path=forked['PATH'])
    command = [mim, 'train', 'mmaction', tmp_path / 'config.py', '--launcher', 'pytorch']
    done = run(*command, '--gpus', 2, '--work-dir', cfg.work_dir, env=env, check=False)
    assert done.returncode != 0
    found = re.findall(r'RuntimeError: (\d+ of \d+) videos drawn could not be read', done.stdout)
    assert len(found) == 2, done.stdout
    assert found[0] == found[1]
    assert_listed(cfg, dict.fromkeys(bad, BAD['missing.mp4']))
    for name in bad:
        assert log_of(cfg).count(f'{name} cannot be read') == 1


@pytest.mark.slow
def test_training_stops_when_too_many_fail(write_list, config):
    bad = [f'missing_{i}.mp4' for i in range(6)]
    cfg = config(write_list(bad), epochs=20)
    cfg.default_hooks.bad_videos.interval = 1
    runner = Runner.from_cfg(cfg)
    with pytest.raises(RuntimeError, match=r'\d+ of \d+ videos drawn could not be read') as raised:
        runner.train()
    assert 'max_failed_share=0.01' in str(raised.value)
    assert re.match('(1[1-9]|2[0-9]) of', str(raised.value))
    assert 'bad_videos.txt names them' in str(raised.value)
    assert bad_videos(cfg).keys() <= set(bad)
    assert log_of(cfg).count('cannot be read') == len(bad_videos(cfg))


@pytest.mark.slow
def test_a_larger_share_is_allowed_when_asked_for(write_list, config):
    cfg = config(write_list([f'missing_{i}.mp4' for i in range(6)]), epochs=3)
    cfg.default_hooks.bad_videos.max_failed_share = 0.9
    runner = Runner.from_cfg(cfg)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, BadVideosHook))
    assert hook.failed > 10


def test_a_wrong_folder_stops_at_the_first_sample(write_list, config):
    cfg = config(write_list())
    cfg.train_dataloader.dataset.data_prefix = dict(video='nowhere')
    with pytest.raises(
        UnreadableVideoError,
        match=r"the last of 11 unreadable ones in a row: is data_prefix\.video='nowhere' the",
    ):
        Runner.from_cfg(cfg).train()


@pytest.mark.slow
def test_a_resumed_run_adds_to_the_list(write_list, config):
    cfg = config(write_list(['empty.mp4']))
    cfg.default_hooks.checkpoint.interval = 1
    Runner.from_cfg(cfg).train()
    cfg = config(write_list(['missing.mp4']), epochs=2)
    cfg.resume = True
    Runner.from_cfg(cfg).train()
    assert_listed(cfg)
    cfg = config(write_list(['empty.mp4']))  # a new run in the same folder starts anew
    Runner.from_cfg(cfg).train()
    assert_listed(cfg, {'empty.mp4': BAD['empty.mp4']})


def fault_tolerant(path, clips, pipeline=None, **options):
    if pipeline is None:
        pipeline = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py').train_pipeline
    options = dict(dict(pipeline=pipeline, data_prefix=dict(video=str(clips))), **options)
    dataset = DATASETS.build(dict(type='FaultTolerantVideoDataset', ann_file=str(path), **options))
    dataset.counted = True
    return dataset


def test_the_replacement_depends_on_the_seed(write_list, clips):
    dataset = fault_tolerant(write_list(), clips)
    samples = []
    for seed in (0, 0, 1):
        seed_generators(seed)
        samples.append(dataset[1])
    assert samples[0]['data_samples'].unreadable[0][0].endswith('empty.mp4')
    assert torch.equal(samples[0]['inputs'], samples[1]['inputs'])
    assert not torch.equal(samples[0]['inputs'], samples[2]['inputs'])
    assert 'unreadable' not in dataset[0]['data_samples']


def test_no_video_is_left_out_that_nobody_counts(write_list, clips):
    dataset = fault_tolerant(write_list(), clips)
    dataset.counted = False
    with pytest.raises(UnreadableVideoError, match=r'empty\.mp4 .* No BadVideosHook counts'):
        dataset[1]


@pytest.mark.parametrize(
    ('steps', 'error'),
    [
        ([dict(type='DecordInit'), dict(type='DecordDecode')], KeyError),
        ([dict(type='DecordInit'), dict(type='SampleFrames', clip_len=0)], Exception),
        ([dict(type='DecordInit'), dict(type='Flip', flip_ratio=1)], KeyError),
    ],
    ids=['reading step without its input', 'step that samples', 'other step'],
)
def test_errors_of_the_pipeline_stop_at_once(write_list, clips, steps, error):
    with pytest.raises(error) as raised:
        fault_tolerant(write_list(), clips, [*steps, dict(type='PackActionInputs')])[0]
    assert not isinstance(raised.value, UnreadableVideoError)


def test_arguments_are_checked(write_list, clips):
    with pytest.raises(ValueError, match="on_test_failure must be 'raise' or 'missing', got 'x'"):
        fault_tolerant(write_list(), clips, on_test_failure='x')
    with pytest.raises(ValueError, match='max_failed_share must be from 0 to 1, got 2'):
        BadVideosHook(max_failed_share=2)
    with pytest.raises(ValueError, match='interval must be 1 or more iterations, got 0'):
        BadVideosHook(interval=0)


class OpenMyself(BaseTransform):
    """A step of one's own, which opens videos."""

    def transform(self, results):
        return dict(results, video_reader=VideoReader(results['filename']))


def test_a_step_of_ones_own_that_cannot_open_a_video_is_named(tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    (tmp_path / 'list.txt').write_text('text.mp4 0\n')
    data = CheckedVideoDataset(
        str(tmp_path / 'list.txt'), [dict(type=OpenMyself)], dict(video=str(tmp_path))
    )
    with pytest.raises(UnreadableVideoError, match=r'/text\.mp4 cannot be read \(OpenMyself: '):
        data[0]


def test_a_test_stops_at_an_unreadable_video(write_list, config):
    with pytest.raises(UnreadableVideoError, match=r'empty\.mp4 cannot be read \(DecordInit'):
        Runner.from_cfg(config(write_list(['empty.mp4']))).test()


@pytest.mark.slow
@pytest.mark.parametrize('split', ['test', 'val'])
def test_missing_videos_count_as_wrong_whatever_their_class(split, write_list, config, tmp_path):
    bad = [f'missing_{i}.mp4' for i in range(10)]  # more than the eight classes
    path = write_list(bad, good=2)
    cfg = config(path, on_test_failure='missing', max_refetch=20)
    dump = tmp_path / 'predictions.pkl'
    cfg.test_evaluator = [
        dict(type='AccMetric', metric_options=dict(top_k_accuracy=dict(topk=(1, 7)))),
        dict(type='DumpResults', out_file_path=str(dump)),
    ]
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict(type='ValLoop')
    cfg.default_hooks.checkpoint = None
    del cfg.default_hooks.preemption
    scores = getattr(Runner.from_cfg(cfg), split)()
    predictions = load(dump)
    lines = path.read_text().splitlines()
    assert len(predictions) == len(lines) == 12
    hits = 0
    for line, prediction in zip(lines, predictions, strict=True):
        name, label = line.split()
        assert prediction['gt_label'].item() == int(label)
        assert ('unreadable' in prediction) == (name in bad)
        if name in bad:
            assert prediction['unreadable'][0][0].endswith(name)
            assert prediction['pred_score'][int(label)] == 0
            assert prediction['pred_score'].sum() == pytest.approx(1)
            assert prediction['pred_label'].item() != int(label)
        else:
            hits += int(label) in np.argsort(prediction['pred_score'].numpy())[-7:]
    assert scores['acc/top7'] == pytest.approx(hits / 12)
    assert '10 samples could not be read and count as wrong' in log_of(cfg)
    assert_listed(cfg, dict.fromkeys(bad, BAD['missing.mp4']))


# The tool


@pytest.fixture(scope='module')
def bad_list(kinds):
    """The list of all kinds of files, and a pipe without an end."""
    os.mkfifo(kinds / 'pipe.mp4')
    path = kinds / 'all.txt'
    names = [*map(file_name, KINDS), 'pipe.mp4']
    path.write_text(''.join(f'{name},{i}\n' for i, name in enumerate(names)))
    return path


def test_check_videos_sorts_good_from_bad(bad_list, kinds, outcomes, run, tmp_path):
    good, bad = tmp_path / 'good.txt', tmp_path / 'bad.txt'
    command = ['mmsifa', 'check-videos', bad_list, '--data-root', kinds]
    command += ['--delimiter', ',', '--timeout', 6, '--workers', 2]
    done = run(*command, '--out-good', good, '--out-bad', bad, check=False)
    assert done.returncode == 1, done.stdout
    reasons = dict(line.split('\t') for line in bad.read_text().splitlines())
    expected = {
        str(kinds / file_name(kind)): outcome
        for kind, outcome in outcomes.items()
        if outcome != 'trains'
    }
    expected[str(kinds / 'pipe.mp4')] = ['decoder: not done after 6 seconds']
    assert reasons.keys() == expected.keys()
    for path, possible in expected.items():
        reason = next(reason for reason in possible if reasons[path].startswith(reason))
        assert f'{path}: {reason}' in done.stdout.replace('\n', '')
    lines = bad_list.read_text().splitlines()
    assert good.read_text().splitlines() == [
        line for line in lines if str(kinds / line.split(',')[0]) not in reasons
    ]
    counts = f'{len(lines) - len(reasons)} of {len(lines)} videos are good, {len(reasons)} are bad'
    assert counts in done.stdout
    cfg = dict(type='CheckedVideoDataset', data_prefix=dict(video=str(kinds)), delimiter=',')
    dataset = DATASETS.build(dict(cfg, ann_file=str(good), pipeline=train_pipeline()))
    assert len(dataset) == len(lines) - len(reasons)
    assert all(dataset[i]['inputs'].shape == (1, 3, 16, 64, 64) for i in range(len(dataset)))


def test_check_videos_says_that_all_are_good_and_keeps_the_lines(motion_data, run, tmp_path):
    names = sorted(path.name for path in (motion_data / 'videos_val').glob('*.mp4'))
    path, good = tmp_path / 'list.txt', tmp_path / 'good.txt'
    path.write_text(''.join(f'{name} 0 3\n' for name in names[:2] * 2))
    command = ['mmsifa', 'check-videos', path, '--data-root', motion_data / 'videos_val']
    done = run(*command, '--multi-class', '--out-good', good)
    assert '2 of 2 videos are good, 0 are bad' in done.stdout
    assert good.read_text() == path.read_text()


@pytest.mark.slow
def test_a_full_disk_at_the_console_costs_no_list(tmp_path):
    (tmp_path / 'bad.mp4').touch()
    (tmp_path / 'list.txt').write_text('bad.mp4 0\n')
    command = [sys.executable, '-m', 'mmsifa', 'check-videos', tmp_path / 'list.txt', '--data-root']
    command += [tmp_path, '--out-good', tmp_path / 'good.txt', '--out-bad', tmp_path / 'out.txt']
    with open('/dev/full', 'w') as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert 'Decoding' in done.stderr
    assert '([Errno 28] No space left on device); the work goes on' in done.stderr
    assert 'Traceback' not in done.stderr
    assert (tmp_path / 'good.txt').read_text() == ''
    assert (tmp_path / 'out.txt').read_text().endswith('bad.mp4\tDecordInit: the file is empty\n')


@pytest.mark.parametrize(
    'template', ['img_{:05', 'img_{x}.jpg', 'img_{:05}{}.jpg', 'img_{:s}.jpg', 'img.jpg', '{.x}']
)
def test_check_videos_refuses_names_that_are_no_template(template, tmp_path, monkeypatch, capsys):
    (tmp_path / 'list.txt').write_text('a 1 0\n')
    with pytest.raises(SystemExit, match='2'):
        main(['check-videos', str(tmp_path / 'list.txt'), '--filename-tmpl', template])
    assert f'such as img_{{:05}}.jpg, got {template}' in capsys.readouterr().err


def test_check_videos_refuses_what_it_cannot_do_in_a_sentence(tmp_path, run):
    path = tmp_path / 'list.txt'
    path.write_text('../a.mp4 0\n')
    tool = ['mmsifa', 'check-videos']
    for arguments, said in (
        ([path, '--data-root', tmp_path], "line 1: '../a.mp4' leaves the data root"),
        ([path, '--out-good', path], 'LIST, --out-good and --out-bad must be different files'),
        ([path, '--out-bad', '/proc/bad.txt'], '/proc/bad.txt cannot be written'),
    ):
        done = run(*tool, *arguments, check=False)
        assert done.returncode == 2
        assert said in done.stdout
        assert 'Traceback' not in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ['list.txt']


def test_a_crash_of_the_decoder_costs_one_video(kinds, monkeypatch):
    good, crash = (str(kinds / file_name(kind)) for kind in ('H.264', 'AV1'))
    transform = DecordInit.transform

    def crash_or_open(step, results):
        if results['filename'] == crash:
            signal.raise_signal(signal.SIGKILL)
        return transform(step, results)

    monkeypatch.setattr(DecordInit, 'transform', crash_or_open)
    found = dict(check([crash, good], workers=1, timeout=300))
    assert found == {crash: 'decoder: crashed (SIGKILL)', good: None}


def test_an_interrupt_while_a_process_starts_leaves_none(tmp_path, monkeypatch):
    started = []
    start = BaseProcess.start

    def start_and_interrupt(process):
        start(process)
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(BaseProcess, 'start', start_and_interrupt)
    os.mkfifo(tmp_path / 'pipe.mp4')  # never ends
    with pytest.raises(KeyboardInterrupt):
        list(check([str(tmp_path / 'pipe.mp4')], workers=1, timeout=300))
    assert [process.is_alive() for process in started] == [False]


@pytest.mark.slow
def test_interrupted_check_videos_leaves_nothing(tmp_path, forked):
    os.mkfifo(tmp_path / 'pipe.mp4')  # never ends
    (tmp_path / 'list.txt').write_text('pipe.mp4 0\n')
    mmsifa = shutil.which('mmsifa', path=forked['PATH'])
    command = [mmsifa, 'check-videos', tmp_path / 'list.txt', '--data-root', tmp_path]
    command += ['--out-good', tmp_path / 'good.txt', '--workers', '1']
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    writer = os.open(tmp_path / 'pipe.mp4', os.O_WRONLY)  # returns when the decoder waits there
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == 'Interrupted; no list was written'
    assert 'Traceback' not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ['list.txt', 'pipe.mp4']
    with pytest.raises(BrokenPipeError):  # its process is gone
        os.write(writer, b'x')
    os.close(writer)


# Raw frames


FRAMES = {
    'good': None,
    'missing': (lambda path: path.unlink(), 'No such file or directory'),
    'empty': (lambda path: path.write_bytes(b''), 'it is empty'),
    'page': (lambda path: path.write_text('404 Not Found'), 'it is cut off or no image'),
    'cut': (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        'it is cut off or no image',
    ),
    'folder': (lambda path: (path.unlink(), path.mkdir()), 'Is a directory'),
}


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    """Folders of 16 frames; of each but the first, one frame is broken."""
    root = tmp_path_factory.mktemp('frames')
    for name, broken in FRAMES.items():
        (root / name).mkdir()
        for number in range(1, 17):
            picture = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            assert cv2.imwrite(str(root / name / f'{number:05}.jpg'), picture)
        if broken:
            broken[0](root / name / '00007.jpg')
    return root


@pytest.fixture
def frames_list(frames, tmp_path):
    path = tmp_path / 'frames.txt'
    path.write_text(''.join(f'{name} 16 {i}\n' for i, name in enumerate(FRAMES)))
    return path


RAW_PIPELINE = [
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
    dict(type='RawFrameDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]


def rawframe_dataset(path, frames, **options):
    cfg = dict(type='CheckedRawframeDataset', ann_file=str(path), pipeline=RAW_PIPELINE)
    cfg.update(data_prefix=dict(img=str(frames)), filename_tmpl='{:05}.jpg', **options)
    return DATASETS.build(cfg)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_an_unreadable_frame_is_named_with_its_folder(frames_list, frames, backend):
    dataset = rawframe_dataset(frames_list, frames)
    dataset.pipeline.transforms[1].decoding_backend = backend
    assert dataset[0]['inputs'].shape == (1, 3, 16, 64, 64)
    for index, name in enumerate(FRAMES):
        if name != 'good':
            said = rf'{frames / name} cannot be read \(RawFrameDecode: 00007\.jpg: .+\)'
            with pytest.raises(UnreadableVideoError, match=said) as raised:
                dataset[index]
            assert 'FaultTolerantRawframeDataset leaves them out' in str(raised.value)
            if backend == 'cv2':
                assert FRAMES[name][1] in str(raised.value)


def test_training_goes_on_without_folders_of_unreadable_frames(frames_list, frames, config):
    cfg = config(frames_list, epochs=2)
    cfg.train_dataloader.dataset = dict(
        type='FaultTolerantRawframeDataset',
        ann_file=str(frames_list),
        data_prefix=dict(img=str(frames)),
        filename_tmpl='{:05}.jpg',
        pipeline=RAW_PIPELINE,
        max_refetch=100,
    )
    cfg.default_hooks.bad_videos.max_failed_share = 1.0
    Runner.from_cfg(cfg).train()
    reasons = bad_videos(cfg)
    assert reasons.keys() == FRAMES.keys() - {'good'}
    for name, reason in reasons.items():
        assert reason == f'RawFrameDecode: 00007.jpg: {FRAMES[name][1]}'


def test_a_wrong_folder_of_frames_stops_at_the_first_sample(frames_list):
    dataset = rawframe_dataset(frames_list, 'nowhere', type='FaultTolerantRawframeDataset')
    dataset.counted = True
    with pytest.raises(UnreadableVideoError, match=r"is data_prefix\.img='nowhere' the folder"):
        dataset[0]


def test_check_videos_takes_lists_of_raw_frames(frames_list, frames, run, tmp_path):
    shutil.copytree(frames / 'good', tmp_path / 'frames/good')
    for name in FRAMES:
        if name != 'good':
            shutil.copytree(frames / name, tmp_path / 'frames' / name)
    content = bytearray((frames / 'good/00005.jpg').read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = np.random.default_rng(1).bytes(40)
    shutil.copytree(frames / 'good', tmp_path / 'frames/garbled')
    (tmp_path / 'frames/garbled/00005.jpg').write_bytes(content)  # decodes to other colours
    shutil.copytree(frames / 'good', tmp_path / 'frames/short')
    with frames_list.open('a') as file:
        file.write('garbled 16 1\nshort 17 1\nnowhere 16 1\n')
    good, bad = tmp_path / 'good.txt', tmp_path / 'bad.txt'
    command = ['mmsifa', 'check-videos', frames_list, '--data-root', tmp_path / 'frames']
    done = run(*command, '--out-good', good, '--out-bad', bad, check=False)
    assert done.returncode == 1, done.stdout
    assert "filename_tmpl='{:05}.jpg' and start_index=1 in a config" in done.stdout
    assert '1 of 9 videos are good, 8 are bad' in done.stdout
    rows = dict(line.split('\t') for line in bad.read_text().splitlines())
    reasons = {Path(folder).name: reason for folder, reason in rows.items()}
    expected = {name: f'00007.jpg: {kind[1]}' for name, kind in FRAMES.items() if kind}
    expected['garbled'] = '00005.jpg: Corrupt JPEG data: premature end of data segment'
    expected['short'] = '00017.jpg: No such file or directory'
    expected['nowhere'] = '00001.jpg: No such file or directory'
    assert reasons == {name: f'RawFrameDecode: {why}' for name, why in expected.items()}
    assert good.read_text() == 'good 16 0\n'


def test_names_of_raw_frames_are_found_or_asked_for(tmp_path, run):
    for name in ('a/img_00000.jpg', 'a/flow_x_00000.jpg', 'b/7.png', 'b/12.png', 'c/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [str(tmp_path / name) for name in 'abc']
    assert frame_names(folders) == ('img_{:05}.jpg', 0)
    assert frame_names(folders[1:]) == ('{:01}.png', 1)
    with pytest.raises(ValueError, match='give --filename-tmpl and --start-index'):
        frame_names(folders[2:])


def test_check_videos_says_what_it_found_at_once_and_takes_any_name(tmp_path, motion_data, run):
    """Also when it is killed before the end."""
    root = os.fsdecode(os.fsencode(tmp_path) + b'/\xca')
    os.mkdir(root)
    Path(root, 'empty.mp4').touch()
    clip = next((motion_data / 'videos_train').glob('*.mp4'))
    names = [f'{i}.mp4' for i in range(1000)]  # take seconds
    for name in names:
        os.link(clip, Path(root, name))
    lines = [f'{name}\t0\n' for name in ('empty.mp4', *names)]
    (tmp_path / 'list.txt').write_text(''.join(lines))
    command = [
        sys.executable,
        '-m',
        'mmsifa',
        'check-videos',
        tmp_path / 'list.txt',
        '--data-root',
        root,
    ]
    command += ['--delimiter', r'\t', '--out-bad', tmp_path / 'bad.txt', '--workers', '2']
    env = dict(os.environ, PYTHONIOENCODING='ascii')
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    row = process.stdout.readline()
    process.kill()
    process.wait()
    assert row == f'{tmp_path}/\\xca/empty.mp4: DecordInit: the file is empty\n'
    (unfinished,) = tmp_path.glob('.bad.txt.*.part')
    assert unfinished.read_text() == row.replace(': ', '\t', 1)
