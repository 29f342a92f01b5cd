"""Scores of people's own videos: the same as in testing, and nobody's lost."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
import torch
from mmaction.apis import inference_recognizer
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.dataset import Compose, pseudo_collate
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmsifa.__main__ import main
from mmsifa.apis import (
    Prediction,
    ResultTable,
    VideoResult,
    Window,
    class_names,
    draw_timeline,
    find_videos,
    load_config,
    load_recognizer,
    predict_videos,
    sliding_windows,
    video_pipeline,
)
from mmsifa.apis.prediction.drawn_video import annotate_video
from mmsifa.apis.prediction.scores import video_samples
from mmsifa.apis.prediction.timeline import best_runs, spans
from mmsifa.datasets.reading_process import ReadingProcess
from mmsifa.fileio.video import VideoReader, VideoWriter

ROOT = Path(__file__).parents[2]

SMALL = {
    'model.backbone.base_channels': 8,
    'model.backbone.stage_blocks': (1, 1, 1, 1),
    'model.cls_head.in_channels': 256,
}


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """A checkpoint of a small network, random in all layers."""
    init_default_scope('mmaction')
    torch.manual_seed(1)
    model = MODELS.build(load_config('sifa_tiny_motion', SMALL).model)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    path = tmp_path_factory.mktemp('weights') / 'random.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def command(weights):
    """The arguments that name the network."""
    options = [f'{key}={value}'.replace(' ', '') for key, value in SMALL.items()]
    network = ['--config', 'sifa_tiny_motion', '--checkpoint', str(weights), '--device', 'cpu']
    return [*network, '--cfg-options', *options]


@pytest.fixture(scope='module')
def clips(motion_data) -> list[str]:
    return [str(path) for path in sorted((motion_data / 'videos_val').glob('*.mp4'))]


@pytest.fixture(scope='module')
def long_video(clips, tmp_path_factory) -> str:
    """A video of all clips in a row, 162 frames, 12 a second, each 18 frames one motion."""
    path = tmp_path_factory.mktemp('long') / 'long.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 12, (64, 64))
    for clip in clips:
        for frame in decord.VideoReader(clip):
            writer.write(frame.asnumpy()[..., ::-1])
    writer.release()
    return str(path)


@pytest.mark.slow
def test_scores_are_those_of_testing(weights, motion_data, clips, tmp_path):
    config = load_config('sifa_tiny_motion', SMALL)
    dataset = config.test_dataloader.dataset
    dataset.ann_file = str(motion_data / 'val_list_videos.txt')
    dataset.data_prefix = dict(video=str(motion_data / 'videos_val'))
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_evaluator = dict(type='DumpResults', out_file_path=str(tmp_path / 'scores.pkl'))
    config.update(work_dir=str(tmp_path), load_from=str(weights), visualizer=None)
    Runner.from_cfg(config).test()
    dumped = load(str(tmp_path / 'scores.pkl'))
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    for batch_size in (1, 4):
        results = list(predict_videos(model, clips, batch_size=batch_size))
        assert [result.video for result in results] == clips
        for result, expected in zip(results, dumped, strict=True):
            torch.testing.assert_close(result.predictions[0].scores, expected['pred_score'])
    assert not torch.equal(results[0].predictions[0].scores, results[1].predictions[0].scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'mmaction::recognition/tanet/tanet_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb',
        'mmaction::recognition/slowonly/slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb',
    ],
    ids=['2D-raw-frames', '3D'],
)
def test_mmaction2s_own_recognizers_give_the_scores_of_its_inference_api(name, clips):
    config = load_config(name)
    config.model.backbone.update(pretrained=None)
    for step in config.test_dataloader.dataset.pipeline:
        if step.type in ('ThreeCrop', 'CenterCrop'):
            step.crop_size = 64
        if step.type == 'Resize':
            step.scale = (-1, 64)
        if step.type == 'SampleFrames' and step.clip_len > 1:
            step.num_clips = 2
    model = MODELS.build(config.model).eval()
    model.cfg = config
    steps, note = video_pipeline(config)
    assert steps[0]['type'] == 'DecordInit'
    assert bool(note) == ('sthv1' in name)
    result = next(predict_videos(model, clips[:1]))
    config.test_pipeline = steps
    expected = inference_recognizer(model, clips[0]).pred_score
    torch.testing.assert_close(result.predictions[0].scores, expected)


@pytest.mark.parametrize('decoder', ['UpstreamDecord', 'PyAV', 'OpenCV', 'PIMS'])
def test_configs_of_other_decoders_predict_by_ours(decoder):
    config = load_config('sifa_tiny_motion')
    ours = video_pipeline(config)[0]
    for step in config.test_dataloader.dataset.pipeline:
        step.type = step.type.replace('Decord', decoder)
    assert video_pipeline(config)[0] == ours


def test_damaged_videos_are_named_and_cost_nothing_else(command, clips, motion_data, tmp_path, run):
    folder = tmp_path / 'videos'
    (folder / 'deep').mkdir(parents=True)
    for place, clip in ((folder, clips[0]), (folder / 'deep', clips[1])):
        (place / Path(clip).name).write_bytes(Path(clip).read_bytes())
    (folder / 'cut.mp4').write_bytes(Path(clips[2]).read_bytes()[:2000])
    (folder / 'empty.mp4').touch()
    (folder / 'page.mp4').write_text('404 Not Found')
    (folder / 'notes.txt').write_text('no video')
    labels = ['--labels', motion_data / 'label_map.txt']
    out = ['--out', tmp_path / 'o.csv', '--out', tmp_path / 'o.jsonl', '--batch-size', 2]
    done = run('mmsifa', 'predict', folder, *command, *labels, *out, check=False)
    assert done.returncode == 1
    for name in ('cut', 'empty', 'page'):
        assert re.search(rf'{name}.mp4\n  cannot be scored: .+\n', done.stdout)
    assert 'empty.mp4\n  cannot be scored: DecordInit: the file is empty' in done.stdout
    assert 'deep' in done.stdout
    assert '2 of 5 videos were scored' in done.stdout
    assert re.search(rf'{Path(clips[0]).name}\n(  +\d+\.\d %  [a-z]+ *\n){{5}}', done.stdout)

    rows = list(csv.DictReader((tmp_path / 'o.csv').open()))
    assert [row['rank'] for row in rows] == ['1', '2', '3', '4', '5'] * 2
    lines = [json.loads(line) for line in (tmp_path / 'o.jsonl').read_text().splitlines()]
    assert sorted('error' in line for line in lines) == [False, False, True, True, True]
    names = (motion_data / 'label_map.txt').read_text().split()
    for line in (line for line in lines if 'top' in line):
        best = int(np.argmax(line['scores']))
        assert line['top'][0]['class'] == best
        assert line['top'][0]['name'] == names[best]
        mine = [row for row in rows if row['video'] == line['video']]
        assert [row['name'] for row in mine] == [top['name'] for top in line['top']]
        assert float(mine[0]['score']) == pytest.approx(line['scores'][best], rel=1e-5)


def test_scores_that_are_no_numbers_cost_their_video_alone(weights, clips, tmp_path, capsys):
    """A first layer that overflows on all but a black video."""
    black = str(tmp_path / 'black.mp4')
    writer = cv2.VideoWriter(black, cv2.VideoWriter.fourcc(*'mp4v'), 24, (64, 64))
    for _ in range(18):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    state = torch.load(weights)['state_dict']
    state['backbone.conv1.conv.weight'].fill_(3e38)
    torch.save({'state_dict': state}, tmp_path / 'overflows.pth')
    options = {**SMALL, 'model.data_preprocessor.mean': (0, 0, 0)}
    network = ['--config', 'sifa_tiny_motion', '--checkpoint', str(tmp_path / 'overflows.pth')]
    network += ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in options.items())]
    out = ['--out', str(tmp_path / 'o.jsonl'), '--out', str(tmp_path / 'o.csv')]
    assert main(['predict', clips[0], black, clips[1], *network, *out, '--batch-size', '3']) == 1

    text = capsys.readouterr().out
    assert text.count('the network gives scores that are NaN or infinite') == 2
    assert 'nan %' not in text
    lines = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / 'o.jsonl').read_text().splitlines()
    ]
    assert [line['video'] for line in lines] == [clips[0], black, clips[1]]
    assert ['error' in line for line in lines] == [True, False, True]
    rows = list(csv.DictReader((tmp_path / 'o.csv').open()))
    assert [row['video'] for row in rows] == [black] * 5


def test_a_crash_of_the_decoder_is_one_videos_failure(weights, clips, monkeypatch):
    def crash(video, pipeline, sliding):
        if video == clips[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from video_samples(video, pipeline, sliding)

    monkeypatch.setattr('mmsifa.apis.prediction.scores.video_samples', crash)
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    errors = [result.error for result in predict_videos(model, clips[:3])]
    assert errors == [None, 'it crashes the decoder (SIGKILL)', None]


def test_an_error_of_the_model_is_no_bad_video(command, clips, tmp_path, monkeypatch, capsys):
    model_type = MODELS.get('mmaction.Recognizer3D')
    test_step, calls = model_type.test_step, []

    def second_fails(self, data):
        calls.append(data)
        if len(calls) == 2:
            raise torch.OutOfMemoryError('Tried to allocate 9 GiB.')
        return test_step(self, data)

    monkeypatch.setattr(model_type, 'test_step', second_fails)
    out = tmp_path / 'o.jsonl'
    assert main(['predict', *clips[:3], *command, '--batch-size', '1', '--out', str(out)]) == 3
    text = capsys.readouterr().out
    assert 'Out of memory: Tried to allocate 9 GiB.' in text
    assert 'cannot be scored' not in text
    assert [json.loads(line)['video'] for line in out.read_text().splitlines()] == clips[:1]


def test_only_whole_tables_get_their_names(command, clips, tmp_path, monkeypatch, capsys):
    model_type = MODELS.get('mmaction.Recognizer3D')
    test_step, calls = model_type.test_step, []

    def second_fails(self, data):
        calls.append(data)
        if len(calls) == 2:
            raise RuntimeError('a fault in the network')
        return test_step(self, data)

    monkeypatch.setattr(model_type, 'test_step', second_fails)
    folder = tmp_path / ('long' * 40)  # stays on one line of what is printed
    with pytest.raises(RuntimeError, match='a fault in the network'):
        main(['predict', *clips[:3], *command, '--batch-size', '1', '--out', str(folder / 'o.csv')])
    (unfinished,) = folder.iterdir()
    assert f'What came before is in {unfinished}' in capsys.readouterr().out.splitlines()
    assert len(unfinished.read_text().splitlines()) == 1 + 5


def test_a_console_that_fails_costs_no_file(command, clips, tmp_path, monkeypatch, capsys):
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, 'stdout', os.fdopen(writer, 'w'))
    monkeypatch.setattr(sys, '__stdout__', sys.stdout)
    os.close(reader)  # as after | head
    out = tmp_path / 'o.csv'
    assert main(['predict', *clips[:2], *command, '--out', str(out)]) == 1
    rows = list(csv.DictReader(out.open()))
    assert [row['video'] for row in rows[::5]] == clips[:2]
    assert 'Nothing more can be printed ([Errno 32] Broken pipe)' in capsys.readouterr().err


def test_an_interrupt_before_the_first_video_is_a_word(command, clips, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmsifa.apis.load_recognizer', interrupted)
    assert main(['predict', clips[0], *command]) == 130
    assert capsys.readouterr().err == 'Interrupted\n'


def test_windows_are_scored_as_videos_of_their_own(weights, long_video):
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    result = next(predict_videos(model, [long_video], sliding=(1.5, 1.5), batch_size=4))
    assert [p.window[:2] for p in result.predictions] == [(i, i + 18) for i in range(0, 162, 18)]
    frames = decord.VideoReader(long_video).get_batch(range(36, 54)).asnumpy()
    steps = [step for step in video_pipeline(model.cfg)[0] if step['type'] != 'DecordInit']
    steps[1] = dict(type='ArrayDecode')
    info = dict(array=frames, total_frames=18, start_index=0, modality='RGB', label=-1)
    with torch.no_grad():
        expected = model.test_step(pseudo_collate([Compose(steps)(info)]))[0].pred_score
    torch.testing.assert_close(result.predictions[2].scores, expected)


@TRANSFORMS.register_module()
class OwnOpening(TRANSFORMS.get('DecordInit')):
    """A step of one's own, which opens videos."""


def test_a_step_of_ones_own_may_open_whole_videos(weights, clips):
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    (expected,) = next(predict_videos(model, clips[:1])).predictions
    model.cfg.test_dataloader.dataset.pipeline[0].type = 'OwnOpening'
    (prediction,) = next(predict_videos(model, clips[:1])).predictions
    torch.testing.assert_close(prediction.scores, expected.scores)
    with pytest.raises(ValueError, match='got OwnOpening in the test pipeline: leave sliding out'):
        next(predict_videos(model, clips[:1], sliding=(1, 1)))


def test_windows_cover_a_video_and_the_last_ends_with_it():
    for frames, fps, seconds, stride in ((100, 10, 4, 3), (7, 30, 1, 1), (1, 25, 2, 0.001)):
        windows = sliding_windows(np.arange(frames) / fps, frames / fps, seconds, stride)
        assert {w.last - w.first for w in windows} == {min(frames, round(seconds * fps))}
        assert windows[-1].last == frames
        assert set().union(*(range(w.first, w.last) for w in windows)) == set(range(frames))
    hour = sliding_windows(np.arange(108000) / 30, 3600, 10, 5)
    assert len(hour) == 719
    assert hour[1].start == 5


def test_a_long_video_is_never_held_in_memory(tmp_path):
    path = tmp_path / 'long.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 30, (320, 240))
    for shade in range(2000):  # 440 MiB of frames
        writer.write(np.full((240, 320, 3), shade % 256, np.uint8))
    writer.release()
    steps = [
        dict(type='DecordInit'),
        dict(type='SampleFrames', clip_len=8, num_clips=2, test_mode=True),
        dict(type='DecordDecode'),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]
    growth, windows = ReadingProcess(_memory, str(path), Compose(steps))
    assert windows == 67
    assert growth < 150


def _memory(video, pipeline):
    """Yield by how many MiB the memory of this process grew at most, and the number of windows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    samples = [type(item) for item in video_samples(video, pipeline, (1.0, 1.0))]
    yield (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    yield len(samples) - 1


@pytest.mark.slow
def test_sliding_draws_a_timeline_and_a_video_and_writes_rows(
    command, clips, long_video, tmp_path, capsys
):
    options = ['--sliding', '1.5', '--stride', '0.75', '--batch-size', '4']
    kinds = ('csv', 'jsonl', 'mp4')
    out = [part for kind in kinds for part in ('--out', str(tmp_path / f'o.{kind}'))]
    assert main(['predict', long_video, *command, *options, *out]) == 0
    text = capsys.readouterr().out
    assert re.search(r'0:00 - 0:\d\d(\.\d)? +\d+\.\d %  \w+', text)
    lines = [json.loads(line) for line in (tmp_path / 'o.jsonl').read_text().splitlines()]
    assert [(line['start'], line['end']) for line in lines] == [
        (0.75 * i, 0.75 * i + 1.5) for i in range(17)
    ]
    rows = list(csv.DictReader((tmp_path / 'o.csv').open()))
    assert len(rows) == 5 * 17
    assert (rows[5]['start'], rows[5]['end']) == ('0.750', '2.250')
    assert (tmp_path / 'long.mp4.timeline.png').read_bytes().startswith(b'\x89PNG')

    drawn = decord.VideoReader(str(tmp_path / 'o.mp4'))
    assert len(drawn) == 162
    assert drawn.get_avg_fps() == pytest.approx(12)
    assert drawn[0].shape == (320, 320, 3)
    plain = decord.VideoReader(long_video)
    for index in (0, 161):
        frame = cv2.resize(plain[index].asnumpy(), (320, 320), interpolation=cv2.INTER_CUBIC)
        off = np.abs(drawn[index].asnumpy().astype(int) - frame).mean(2)
        assert off[:200].mean() < 6  # the picture is the video's
        assert off[230:, :60].mean() > 20  # but for the caption
    assert not list(tmp_path.glob('.*'))


@pytest.fixture(scope='module')
def variable(clips, tmp_path_factory):
    """A video of 30 frames a second, from 2.0 seconds on of 5: 60 bright frames, then 15 dark."""
    path = tmp_path_factory.mktemp('variable') / 'variable.mp4'
    times = [i / 30 for i in range(60)] + [2 + i / 5 for i in range(16)]
    with VideoWriter(path) as writer:
        for i, (start, end) in enumerate(pairwise(times)):
            writer.write(np.full((64, 64, 3), 220 if i < 60 else 40, np.uint8), start, end)
    return str(path), times


def test_windows_and_drawn_videos_have_the_times_of_the_frames(
    variable, weights, command, tmp_path
):
    video, times = variable
    table, drawn = tmp_path / 'o.csv', tmp_path / 'o.mp4'
    outputs = ['--out', str(table), '--out', str(drawn)]
    assert main(['predict', video, *command, '--sliding', '1', *outputs]) == 0
    rows = list(csv.DictReader(table.open()))[::5]
    assert [(row['start'], row['end']) for row in rows] == [
        (f'{i}.000', f'{i + 1}.000') for i in range(5)
    ]
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    result = next(predict_videos(model, [video], sliding=(1, 1)))
    frames = [(p.window.first, p.window.last) for p in result.predictions]
    assert frames == [(0, 30), (30, 60), (60, 65), (65, 70), (70, 75)]
    np.testing.assert_allclose(VideoReader(drawn).times, times[:-1], atol=1e-3)


def test_a_window_without_a_new_frame_has_the_one_that_is_seen():
    windows = sliding_windows([0, 0.5, 3], 4, seconds=1, stride=1)
    assert [window[:2] for window in windows] == [(0, 2), (1, 2), (2, 3)]


def test_a_file_without_ending_is_itself(clips, command, tmp_path):
    upload, neighbour = tmp_path / 'upload', tmp_path / 'upload.mp4'
    upload.write_bytes(Path(clips[0]).read_bytes())
    rows = []
    for _ in range(2):
        table = tmp_path / 'o.csv'
        assert main(['predict', str(upload), *command, '--out', str(table)]) == 0
        rows.append(table.read_text())
        neighbour.write_bytes(Path(clips[1]).read_bytes())
    assert rows[0] == rows[1]


def test_where_windows_overlap_the_nearest_counts():
    scores = [torch.tensor(row) for row in ([0.9, 0.1], [0.7, 0.3], [0.2, 0.8])]
    windows = [Window(0, 4, 0.0, 4.0), Window(2, 6, 2.0, 6.0), Window(20, 24, 20.0, 24.0)]
    predictions = [Prediction(s, w) for s, w in zip(scores, windows, strict=True)]
    assert spans(predictions) == [(0, 3), (3, 6), (20, 24)]
    runs = best_runs(predictions)
    assert [run[:3] for run in runs] == [(0, 6, 0), (20, 24, 1)]
    assert [score for *_, score in runs] == pytest.approx([0.8, 0.8])  # the mean of 0.9 and 0.7


def test_the_timeline_shows_long_names_and_hundreds_of_windows(tmp_path):
    scores = torch.rand(300, 174).softmax(1)
    scores[torch.arange(300), torch.arange(300) // 30] = 0.9  # ten classes, one after the other
    windows = [Window(i, i + 1, 12.0 * i, 12.0 * i + 12) for i in range(300)]
    predictions = [Prediction(s, w) for s, w in zip(scores, windows, strict=True)]
    names, _ = class_names(load_config('sifa_r50_sthv2'))
    draw_timeline(tmp_path / 'hour.png', VideoResult('hour.mp4', predictions, 300), names)
    picture = cv2.imread(str(tmp_path / 'hour.png'))[:, :1420].astype(int)  # without the scale
    y, x = np.nonzero(np.abs(picture - (37, 231, 253)).sum(2) < 6)  # the colour of high scores
    assert len(y) > 10000
    assert np.corrcoef(y, x)[0, 1] > 0.95
    y, x = np.nonzero(np.abs(picture - (60, 20, 220)).sum(2) < 6)  # the lines of the best classes
    assert len(y) > 1000
    assert np.corrcoef(y, x)[0, 1] > 0.95


def test_frames_have_the_caption_of_their_window(clips, tmp_path, monkeypatch):
    def panel(caption, size):
        grey = {'dark': 40, 'light': 220}[caption[0][0]]
        return np.dstack([np.full((64, 64, 3), grey, np.float32), np.full((64, 64), 255)])

    monkeypatch.setattr('mmsifa.apis.prediction.drawn_video._panel', panel)
    scores = (torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9]))
    windows = (Window(0, 9, 0.0, 0.375), Window(9, 18, 0.375, 0.75))  # 24 frames a second
    predictions = [Prediction(s, w) for s, w in zip(scores, windows, strict=True)]
    annotate_video(tmp_path / 'o.mp4', VideoResult(clips[0], predictions, 2), ['dark', 'light'])
    frames = decord.VideoReader(str(tmp_path / 'o.mp4')).get_batch(range(18)).asnumpy()
    shades = frames[:, -60:-4, 4:60].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(shades, [40] * 9 + [220] * 9, atol=8)


def test_videos_of_several_sizes_are_never_in_one_batch(weights, clips, tmp_path):
    frames = decord.VideoReader(clips[0]).get_batch(range(18)).asnumpy()
    large = str(tmp_path / 'large.mp4')
    writer = cv2.VideoWriter(large, cv2.VideoWriter.fourcc(*'mp4v'), 24, (112, 112))
    for frame in frames:
        writer.write(cv2.resize(frame, (112, 112))[..., ::-1])
    writer.release()
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    videos = [clips[0], large, clips[1]]
    together = [r.predictions[0].scores for r in predict_videos(model, videos, batch_size=3)]
    alone = [next(predict_videos(model, [video])).predictions[0].scores for video in videos]
    torch.testing.assert_close(together, alone)


def test_one_video_at_a_time_where_the_config_limits_the_views(weights, clips, monkeypatch):
    options = {**SMALL, 'model.test_cfg': dict(max_testing_views=2)}
    model = load_recognizer(load_config('sifa_tiny_motion', options), weights)
    test_step, sizes = model.test_step, []
    monkeypatch.setattr(
        model, 'test_step', lambda data: (sizes.append(len(data['inputs'])), test_step(data))[1]
    )
    list(predict_videos(model, clips[:3], batch_size=3))
    assert sizes == [1, 1, 1]


def test_mixed_precision_is_used_and_gives_float32_scores(weights, clips):
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    full, mixed = (
        next(predict_videos(model, clips[:1], amp=amp)).predictions[0].scores
        for amp in (False, True)
    )
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, full)
    torch.testing.assert_close(mixed, full, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ('name', 'count'),
    [('kinetics400', 400), ('kinetics600', 600), ('sthv1', 174), ('sthv2', 174)],
)
def test_names_of_public_data_sets_are_whole_and_in_order(name, count):
    config = load_config(f'sifa_r50_{name.replace("kinetics", "k")}')
    names, source = class_names(config)
    assert source == name
    assert len(set(names)) == len(names) == count
    if name == 'sthv1':
        assert sorted(names) == class_names(load_config('sifa_r50_sthv2'))[0]
    elif name != 'sthv2':  # MMAction2 sorts Kinetics' names with underscores
        assert names == sorted(names, key=lambda text: text.replace(' ', '_'))
    config.model.cls_head.num_classes = count + 1
    assert class_names(config)[1] == 'numbers'


def test_kinetics_names_are_those_of_decord():
    source = (Path(decord.__file__).parent / 'data/kinetics/kinetics400_action.py').read_text()
    names, _ = class_names(load_config('sifa_r50_k400'))
    listed = re.findall(r"'([a-z][^']+)'|\"([^\"\n]+)\"", source[source.index('abseiling') - 1 :])
    plain = [re.sub(r'[^a-z]', '', (a or b).lower()) for a, b in listed[:400]]
    assert plain == [re.sub(r'[^a-z]', '', name.lower()) for name in names]


def test_names_beside_the_annotation_list_are_taken(motion_data):
    config = load_config('sifa_tiny_motion')
    config.test_dataloader.dataset.ann_file = str(motion_data / 'val_list_videos.txt')
    names, source = class_names(config)
    assert source == str(motion_data / 'label_map.txt')
    assert names[0] == 'left'


NAMES = 'left\nright\nup\ndown\nin\n\nclockwise\nnaïve 中\u2028\n'


@pytest.mark.parametrize(
    'content',
    [
        NAMES.encode('utf-8-sig'),
        NAMES.replace('\n', '\r\n').encode(),
        NAMES.replace('\n', '\r').encode(),
        NAMES.encode('utf-16'),
        (NAMES + '\n \n').encode('utf-8-sig'),
    ],
    ids=['mark', 'CRLF', 'CR', 'UTF-16', 'blank lines at the end'],
)
def test_class_names_are_the_same_from_any_editor(content, tmp_path):
    (tmp_path / 'labels.txt').write_bytes(content)
    names, _ = class_names(load_config('sifa_tiny_motion'), tmp_path / 'labels.txt')
    assert names == ['left', 'right', 'up', 'down', 'in', '5', 'clockwise', 'naïve 中']


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'a\nna\xefve\n', r"line 2: b'na\\xefve' is not UTF-8"),
        (NAMES.encode('utf-16-le'), r"line 1: b'l\\x00e.* has the character NUL, as no text has"),
        (NAMES.encode('utf-32'), 'line 1: .* has the character NUL'),
        (NAMES.encode('utf-16')[:-1], r'line \d: it is not UTF-16, as the byte order mark says'),
        (b'a' * 70000, 'line 1: it has 65536 characters or more'),
    ],
    ids=['Latin-1', 'UTF-16 without a mark', 'UTF-32', 'cut off', 'endless line'],
)
def test_a_file_of_names_that_is_no_text_is_refused_by_line(content, problem, tmp_path):
    (tmp_path / 'labels.txt').write_bytes(content)
    with pytest.raises(ValueError, match=rf'labels\.txt is no text in UTF-8 or UTF-16, {problem}'):
        class_names(load_config('sifa_tiny_motion'), tmp_path / 'labels.txt')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.mp4'], 'no such file or folder: missing.mp4'),
        (['CLIP', '--out', 'o.txt'], 'o.txt has no known ending: expected .csv'),
        (['CLIP', '--out', 'o.png'], 'a timeline, needs --sliding'),
        (['CLIP', 'OTHER', '--out', 'o.mp4'], 'o.mp4 is of one video, got 2 videos'),
        (['CLIP', '--out', 'CLIP'], 'is one of the files to read'),
        (['CLIP', '--labels', 'LABELS', '--out', 'LABELS'], 'is one of the files to read'),
        (['CLIP', '--out', 'o.csv', '--out', './o.csv'], 'each --out must be another file'),
        (['CLIP', '--out', '/dev/null/o.csv'], 'o.csv cannot be written'),
        (['CLIP', '--out', '/proc/o.csv'], 'o.csv cannot be written'),
        (['CLIP', '--stride', '1'], '--stride needs --sliding'),
        (['CLIP', '--sliding', '0'], '--sliding must be above 0 seconds, got 0'),
        (['CLIP', '--batch-size', '0'], '--batch-size must be 1 or more'),
        (['CLIP', '--labels', 'LABELS'], 'has 2 names for the 8 classes'),
        (['CLIP', '--labels', 'none.txt'], 'none.txt'),
        (['CLIP', '--config', 'nothing'], 'no config nothing'),
        (['--cfg-options', 'CLIP'], 'expected KEY=VALUE'),
        (['CLIP', '--cfg-options', 'a..b=1'], 'expected KEY=VALUE, got a..b=1'),
        (['CLIP', '--cfg-options', 'model.a=[1,2'], 'model.a=[1,2 has no value that can be read'),
        (
            ['CLIP', '--cfg-options', 'model.b=1', 'test_pipeline.20.num_clips=1'],
            'error: test_pipeline.20.num_clips=1 has no place in the config (Index 20 exceeds',
        ),
        (['CLIP', '--cfg-options', 'test_pipeline.x.y=1'], 'has no place in the config'),
        (['CLIP', '--cfg-options', 'model.type.x=1'], 'has no place in the config'),
        (['CLIP', '--cfg-options', 'model.backbone.stage_blocks.0=1'], 'has no place in the con'),
        (
            ['CLIP', '--cfg-options', 'test_pipeline.1.num_clips=3'],
            'test_pipeline.1.num_clips changes nothing, since the data loader has a pipeline of '
            'its own: give test_dataloader.dataset.pipeline.1.num_clips',
        ),
        (['CLIP', '--checkpoint', 'none.pth'], 'none.pth'),
        (['CLIP', '--device', 'tpu9'], 'PyTorch cannot use tpu9 here'),
        (['CLIP', '--cfg-options', 'model.backbone.foo=1'], 'of the config cannot be built'),
        (
            ['CLIP', '--cfg-options', 'model.cls_head.average_clips=score'],
            "average_clips='score' are no probabilities",
        ),
        (
            ['CLIP', '--config', 'mmaction::detection/slowonly/slowonly_kinetics400-pretrained-r50_'
             '8xb16-4x16x1-20e_ava21-rgb'],
            'without a cls_head: expected a recognizer',
        ),
        (
            ['CLIP', '--config', 'mmaction::recognition_audio/resnet/tsn_r18_8xb320-64x1x1-100e_'
             'kinetics400-audio-feature'],
            'expected a recognizer of RGB video frames',
        ),
        (
            ['CLIP', '--config', 'mmaction::recognition/slowonly/slowonly_r50_8xb16-16x4x1-256e_'
             'kinetics400-flow'],
            'optical flow: expected a recognizer of RGB video frames',
        ),
        (
            ['CLIP', '--config', 'mmaction::skeleton/stgcn/stgcn_8xb16-joint-u100-80e_ntu60-xsub-'
             'keypoint-2d'],
            'expected a recognizer of RGB video frames',
        ),
    ],
    ids=lambda value: value[-1][:40] if isinstance(value, list) else '',
)  # fmt: skip
def test_wrong_usage_is_said_before_the_work(arguments, message, command, clips, tmp_path, capsys):
    (tmp_path / 'labels.csv').write_text('one\ntwo\n')
    words = dict(CLIP=clips[0], OTHER=clips[1], LABELS=str(tmp_path / 'labels.csv'))
    network = zip(command[:6:2], command[1:6:2], strict=True)
    options = [word for pair in network if pair[0] not in arguments for word in pair]
    with pytest.raises(SystemExit) as stopped:
        main(['predict', *(words.get(word, word) for word in arguments), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'option',
    [
        'test_dataloader=3',
        'test_dataloader.batch_size=x',
        'test_dataloader.dataset=3',
        'test_dataloader.dataset.pipeline=3',
        'test_dataloader.dataset.pipeline.0.type=Foo',
        'test_dataloader.dataset.pipeline.1=3',
        'test_dataloader.dataset.pipeline.3.scale=x',
        'model.backbone=3',
        'model.cls_head=3',
        'model.cls_head.num_classes=x',
        'model.test_cfg=3',
        'model.test_cfg.max_testing_views=x',
        'default_scope=3',
    ],
)
def test_a_wrong_value_in_the_config_is_said_in_words(option, command, clips, tmp_path, capsys):
    """By the tools that score, before the work."""
    network = dict(zip(command[:4:2], command[1:4:2], strict=True))
    files = [network['--config'], network['--checkpoint'], str(tmp_path / 'o.onnx')]
    for name, arguments in (
        ('predict', [clips[0], *command[:6]]),
        ('inspect', [clips[0], *command[:6], '--out', str(tmp_path / 'pages')]),
        ('export', [*files, '--video', clips[0]]),
    ):
        with pytest.raises(SystemExit, match='2'):
            main([name, *arguments, '--cfg-options', *command[7:], option])
        assert ': error: ' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folders_are_searched_and_must_have_videos(tmp_path):
    for name in ('b.MP4', 'a/c.webm', '.d.mp4.part', '.e.mp4', 'f.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos([tmp_path, tmp_path / 'b.MP4', tmp_path / 'f.txt']) == [
        str(tmp_path / name) for name in ('a/c.webm', 'b.MP4', 'f.txt')
    ]
    (tmp_path / 'g').mkdir()
    with pytest.raises(ValueError, match=r'no video in the folder .*g: expected names'):
        find_videos([tmp_path / 'g'])


def test_a_table_that_cannot_be_written_costs_no_other(
    command, clips, tmp_path, capsys, monkeypatch
):
    """As on a disk that becomes full."""
    add = ResultTable.add

    def full(table, result, complete):
        if table.path.suffix == '.jsonl' and len(result.predictions) == 2:
            raise OSError(28, 'No space left on device')
        add(table, result, complete)

    monkeypatch.setattr(ResultTable, 'add', full)
    outputs = [tmp_path / f'o.{ending}' for ending in ('jsonl', 'csv', 'png', 'mp4')]
    options = [word for path in outputs for word in ('--out', str(path))]
    assert main(['predict', clips[0], *command, *options, '--sliding', '0.25']) == 1
    text = capsys.readouterr().out
    assert 'o.jsonl was not written: [Errno 28] No space left' in text
    assert 'cannot be scored' not in text
    assert 'were scored' not in text
    (unfinished,) = tmp_path.glob('.o.jsonl.*.part')
    assert f'What came before is in {unfinished}' in text.replace('\n', '')
    assert json.loads(unfinished.read_text())['start'] == 0
    assert len((tmp_path / 'o.csv').read_text().splitlines()) == 1 + 3 * 5
    assert (tmp_path / 'o.png').is_file()
    assert len(decord.VideoReader(str(tmp_path / 'o.mp4'))) == 18


KILLED = """
import os, sys
from mmsifa.__main__ import main
from mmaction.registry import MODELS

model_type = MODELS.get('mmaction.Recognizer3D')
test_step, calls = model_type.test_step, []

def third_is_killed(self, data):
    calls.append(data)
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
    return test_step(self, data)

model_type.test_step = third_is_killed
main(['predict', *sys.argv[1:]])
"""


def processes():
    return [path for path in Path('/proc').iterdir() if path.name.isdigit()]


def cmdline(process):
    try:
        return (process / 'cmdline').read_bytes()
    except OSError:  # it has ended
        return b''


def test_what_was_predicted_is_in_the_file_when_the_process_is_killed(
    command, clips, tmp_path, run
):
    outputs = [part for kind in ('csv', 'jsonl') for part in ('--out', tmp_path / f'o.{kind}')]
    options = ['--batch-size', '1', '--sliding', '0.5']  # two windows of each video
    done = run('python', '-c', KILLED, *clips[:2], *command, *outputs, *options, check=False)
    assert done.returncode == -signal.SIGKILL
    patience = time.monotonic() + 30
    while left := [pid for pid in processes() if str(tmp_path).encode() in cmdline(pid)]:
        assert time.monotonic() < patience, left
        time.sleep(0.1)
    said = re.findall(r'/o\.\w+: until all is done, (\S+) has it', done.stdout)
    assert {*said, '00000_left.mp4.timeline.png'} == {path.name for path in tmp_path.iterdir()}
    rows = list(csv.DictReader((tmp_path / said[0]).open()))
    assert [(row['video'], row['start']) for row in rows[::5]] == [
        (clips[0], '0.000'),
        (clips[0], '0.250'),
    ]
    lines = (tmp_path / said[1]).read_text().splitlines()
    assert [json.loads(line)['start'] for line in lines] == [0, 0.25]


def test_rows_of_a_video_stay_together(tmp_path):
    """Also where a batch ends in the middle of the next one."""
    scores = torch.tensor([0.5, 0.5])
    first, second = VideoResult('a.mp4', windows=2), VideoResult('b.mp4', windows=2)
    table = ResultTable(tmp_path / 'o.jsonl', ['x', 'y'])
    for result, window in ((first, 0), (first, 1), (second, 0)):
        result.predictions.append(
            Prediction(scores, Window(window, window + 1, window, window + 1))
        )
        table.add(result, complete=False)
    first.failures.append('cut off')
    table.add(first)
    table.add(second)
    table.close()
    lines = [json.loads(line) for line in (tmp_path / 'o.jsonl').read_text().splitlines()]
    assert [(line['video'], line.get('start')) for line in lines] == [
        ('a.mp4', 0),
        ('a.mp4', 1),
        ('a.mp4', None),
        ('b.mp4', 0),
    ]
    assert lines[2]['error'] == '1 of 2 windows: cut off'


ODD = (b'b_\xca\xd3\xc6\xb5.mp4', b'c_\\xca.mp4', b'line\nbreak.mp4', b'[red] $x_{$.mp4')


def test_any_file_name_is_scored_and_written_so_that_it_can_be_read(
    command, clips, tmp_path, run, monkeypatch
):
    folder = tmp_path / 'videos'
    folder.mkdir()
    for name in ODD:
        shutil.copy(clips[0], os.path.join(os.fsencode(folder), name))
    out = [part for kind in ('csv', 'jsonl') for part in ('--out', tmp_path / f'o.{kind}')]
    monkeypatch.setenv('PYTHONIOENCODING', 'ascii')
    done = run('mmsifa', 'predict', folder, *command, *out, '--sliding', '1')
    assert r'b_\xca\xd3\u01b5.mp4' in done.stdout  # the last two bytes are a letter
    assert 'INFO - Loads checkpoint' in done.stdout
    assert 'Logging error' not in done.stdout
    rows = list(csv.DictReader((tmp_path / 'o.csv').open(encoding='utf-8')))
    lines = [json.loads(line) for line in (tmp_path / 'o.jsonl').read_text('utf-8').splitlines()]
    for written in ([row['video'] for row in rows[::5]], [line['video'] for line in lines]):
        assert all(path.isprintable() for path in written)
        files = [
            re.sub(
                rb'\\x([0-9a-f]{2})', lambda byte: bytes.fromhex(byte[1].decode()), path.encode()
            )
            for path in written
        ]
        assert sorted(map(os.path.basename, files)) == sorted(ODD)
        assert all(map(os.path.isfile, files))
    drawn = [os.path.basename(path) for path in os.listdir(os.fsencode(tmp_path))]
    assert {name + b'.timeline.png' for name in ODD} <= set(drawn)


@pytest.mark.parametrize(
    ('width', 'height', 'drawn'), [(1600, 16, (3200, 32)), (16, 1600, (32, 3200))]
)
def test_a_strip_is_drawn_as_large_as_players_show(command, tmp_path, width, height, drawn):
    video = tmp_path / 'strip.mp4'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*'mp4v'), 12, (width, height))
    for shade in range(16):
        writer.write(np.full((height, width, 3), 10 * shade, np.uint8))
    writer.release()
    assert main(['predict', str(video), *command, '--out', str(tmp_path / 'o.mp4')]) == 0
    frames = VideoReader(tmp_path / 'o.mp4')
    assert len(frames) == 16
    assert frames[0].shape == (*drawn[::-1], 3)


def test_a_picture_that_is_too_large_to_draw_is_no_unread_video(command, tmp_path, capsys):
    video = tmp_path / 'strip.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*'MJPG'), 12, (20000, 16))
    for _ in range(16):
        writer.write(np.zeros((16, 20000, 3), np.uint8))
    writer.release()
    assert main(['predict', str(video), *command, '--out', str(tmp_path / 'o.mp4')]) == 1
    text = capsys.readouterr().out
    assert 'H.264 cannot hold frames of 20000 x 16 pixels' in text
    assert 'o.mp4 was not written' in text
    assert 'read' not in text
    assert [path.name for path in tmp_path.iterdir()] == ['strip.avi']


@pytest.fixture
def plain_user(tmp_path):
    """Work as a user who may not read everything, with a folder that is open to all."""
    tmp_path.chmod(0o777)
    user = os.geteuid()
    modes = {path: path.stat().st_mode for path in tmp_path.parents if user == 0}
    for path, mode in modes.items():
        path.chmod(mode | 0o055)
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)
    for path, mode in modes.items():
        path.chmod(mode)


def test_what_a_folder_hides_is_named_and_counted(weights, clips, tmp_path, request):
    """Links to nowhere, to themselves and back, and a folder that may not be searched."""
    model = load_recognizer(load_config('sifa_tiny_motion', SMALL), weights)
    folder, linked = tmp_path / 'videos', tmp_path / 'linked'
    for place in (folder / 'a.mp4', folder / 'closed/b.mp4', linked / 'c.mp4'):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips[0], place)
    (folder / 'gone.mp4').symlink_to('/nowhere/b.mp4')
    (folder / 'loop.mp4').symlink_to('loop.mp4')
    (folder / 'more').symlink_to('nowhere')
    (folder / 'other').symlink_to(linked)
    (linked / 'back').symlink_to(folder)
    (folder / 'closed').chmod(0)
    request.getfixturevalue('plain_user')
    results = predict_videos(model, find_videos([folder]))
    errors = {os.path.relpath(result.video, folder): result.error for result in results}
    assert errors.pop('closed').startswith('PermissionError: [Errno 13] Permission denied')
    link = 'it is a link to no file'
    assert errors == {
        'a.mp4': None, 'gone.mp4': link, 'loop.mp4': link, 'more': link, 'other/c.mp4': None
    }  # fmt: skip
