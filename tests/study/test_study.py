"""The study: its runs, what they measure, and the report of them."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS, METRICS, MODELS
from mmengine.model import BaseModel

from mmsifa.apis.inspection import LayerAttention
from mmsifa.datasets import sample_scene
from mmsifa.models import SIFA
from mmsifa.study import (
    VIDEO_TASKS,
    Run,
    Study,
    draw_cases,
    find_cases,
    fit_motion,
    is_finished,
    measure_offsets,
    missing_runs,
    offset_errors,
    train_and_test,
    true_places,
    watch,
    work_through,
    write_report,
)

ROOT = Path(__file__).parents[2]
TOOL, CONFIGS = ROOT / 'tools/study.py', ROOT / 'configs/study'
OPTIONS = {
    'iterations': 10,
    'batch_size': 4,
    'test_clips': 48,
    'disturbances.nothing.noise': 0,
}
ON_VIDEOS = dict(iterations=10, batch_size=4)
NAMES = ['direction-c2d-0', 'direction-sifa_slow_offsets-0']
START = 'image-c2d-0'


@pytest.fixture(scope='module')
def tool():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('study', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def command():
    def command(out, *, only=NAMES, options=()):
        tiny = [f'{name}={value}' for name, value in OPTIONS.items()]
        return ['--out', str(out), '--quick', '--only', *only, '--cfg-options', *tiny, *options]

    return command


@pytest.fixture(scope='module')
def studied(tmp_path_factory, tool, command):
    """The folder of a study of two runs."""
    out = tmp_path_factory.mktemp('study')
    tool.main(command(out))
    return out


@pytest.fixture
def own_configs(tmp_path):
    """A copy of the study's configs."""
    shutil.copytree(CONFIGS.parent / '_base_', tmp_path / 'configs/_base_')
    return shutil.copytree(CONFIGS, tmp_path / 'configs/study')


def result(folder):
    return json.loads((folder / 'result.json').read_text())


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.glob('runs/*/*') if path.is_file()}


# Runs


def test_a_study_runs_through(studied):
    summary = json.loads((studied / 'results.json').read_text())
    assert list(summary['tasks']) == ['direction']
    assert summary['pretraining']['c2d']['iterations'] == 10
    assert summary['tasks']['direction']['chance'] == 1 / 8
    assert list(summary['tasks']['direction']['models']) == ['c2d', 'sifa_slow_offsets']
    c2d, sifa = summary['costs']['models'].values()
    assert 0 < c2d['multiply_adds'] < sifa['multiply_adds']
    assert sifa['training step'] > 0
    table = (studied / 'table.md').read_text()
    assert f'{sifa["parameters"]:,}' in table
    assert 'On single frames: C2D ' in table
    assert re.search(r'All 3 runs together took \d+\.\d minutes', table)
    assert table.count('| SIFA, offsets learnt at a tenth |') == 3 + 2  # accuracy, and 2 layers
    pictures = {path.name for path in studied.glob('*.png')}
    assert pictures == {
        *(f'{name}_direction.png' for name in ('accuracy', 'learning', 'offsets')), 'costs.png',
    }  # fmt: skip


def test_a_result_says_what_was_measured(studied):
    for name in NAMES:
        measured = result(studied / 'runs' / name)
        by_displacement = measured['by_displacement']
        assert list(by_displacement) == ['0', '1', '2', '4', '8', '16']
        assert np.mean(list(by_displacement.values())) == pytest.approx(measured['top1'])
        assert set(measured['disturbed']) == {'camera', 'nonrigid', 'light', 'nothing'}
        assert measured['disturbed']['nothing'] == measured['top1']
        assert len(measured['loss']) == measured['iterations'] == 10
        assert measured['versions']['torch'] == torch.__version__
    for record in measured['offsets']:
        assert record['no_motion'] == pytest.approx(record['displacement'], rel=1e-4, abs=1e-6)
        assert record['best_linear'] > 0
    assert not result(studied / 'runs' / NAMES[0])['offsets']
    pictures = [path.parent.name for path in studied.glob('runs/*/cases.png')]
    assert pictures == NAMES[1:]


def test_finished_runs_are_kept(studied, tool, command):
    before, costs = times(studied), (studied / 'costs.json').stat().st_mtime_ns
    tool.main(command(studied))
    assert times(studied) == before
    assert (studied / 'costs.json').stat().st_mtime_ns == costs


def test_the_report_needs_json_files_alone(studied, tool, tmp_path):
    for name in (*NAMES, START):
        (tmp_path / 'runs' / name).mkdir(parents=True)
        shutil.copy(studied / 'runs' / name / 'result.json', tmp_path / 'runs' / name)
    shutil.copy(studied / 'costs.json', tmp_path)
    page = tmp_path / 'page.md'
    page.write_text(f'# Study\n\n{tool.START} old {tool.END}\n\nThat is all.\n')
    tool.main(['--out', str(tmp_path), '--report-only', '--page', str(page)])
    tables = (tmp_path / 'table.md').read_text()
    assert page.read_text() == (
        f'# Study\n\n{tool.START}\n\n{tables}\n{tool.END}\n\nThat is all.\n'
    )
    for name in ('results.json', 'table.md', 'costs.png', 'offsets_direction.png'):
        assert (tmp_path / name).read_bytes() == (studied / name).read_bytes()


def test_a_run_is_that_of_its_config_and_seed_again(studied, tmp_path):
    first = studied / 'runs' / NAMES[0]
    shutil.copy(first / 'config.py', tmp_path)
    again = train_and_test(tmp_path)
    assert again['loss'] == result(first)['loss']
    assert again['by_displacement'] == result(first)['by_displacement']
    assert again['digest'] == result(first)['digest']


def test_networks_start_from_the_weights_of_single_frames(studied):
    study = Study(studied, CONFIGS, quick=True, options=OPTIONS)
    start, _, run = (Run(*name.split('-')[:2], 0) for name in (START, *NAMES))
    expected = torch.load(study.weights(start), weights_only=False)['state_dict']
    network = MODELS.build(study.config(run).model)
    network.init_weights()
    weights = network.backbone.state_dict()
    trunk = {name.removeprefix('backbone.') for name in expected if 'cls_head' not in name}
    assert {*weights} - trunk == {f'layer{i}.1.sifa.conv_offset.weight' for i in (2, 3)}
    for name in trunk:
        assert torch.equal(weights[name], expected[f'backbone.{name}'])
    assert not torch.equal(network.cls_head.fc_cls.weight, expected['cls_head.fc_cls.weight'])


def test_what_others_start_from_is_run_again_only_if_it_is_needed(studied, tmp_path):
    for name in (*NAMES, START):
        (tmp_path / 'runs' / name).mkdir(parents=True)
        shutil.copy(studied / 'runs' / name / 'result.json', tmp_path / 'runs' / name)
    study = Study(tmp_path, CONFIGS, quick=True, options=OPTIONS)
    start, c2d, sifa = (Run(*name.split('-')[:2], 0) for name in (START, *NAMES))
    assert missing_runs(study, [start, c2d, sifa]) == []
    (study.folder(sifa) / 'result.json').unlink()
    assert missing_runs(study, [start, c2d, sifa]) == [start, sifa]  # its weights are not there
    study.weights(start).touch()
    assert missing_runs(study, [c2d, sifa]) == [sifa]
    (study.folder(start) / 'result.json').unlink()  # it ended while it wrote
    assert missing_runs(study, [sifa]) == [start, sifa]


def test_single_frames_alone_give_no_report_yet(studied, tool, command, tmp_path):
    shutil.copytree(studied / 'runs' / START, tmp_path / 'runs' / START)
    before = times(tmp_path)
    tool.main(command(tmp_path, only=[START]))
    assert times(tmp_path) == before
    assert not (tmp_path / 'results.json').exists()
    with pytest.raises(ValueError, match='there is no result to report in'):
        write_report(tmp_path)


def test_other_weights_to_start_from_are_another_config(own_configs, tmp_path):
    runs = [Run('direction', model, 0) for model in ('sifa', 'sifa_from_scratch')]
    before = [Study(tmp_path, own_configs).digest(run) for run in runs]
    moved = [Study(tmp_path / 'moved', own_configs).digest(run) for run in runs]
    assert moved == before
    image = own_configs / 'tasks/image.py'
    image.write_text(image.read_text().replace('plain=0.8', 'plain=0.7'))
    after = [Study(tmp_path, own_configs).digest(run) for run in runs]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_changed_config_runs_again(studied, tool, tmp_path):
    run = Run('direction', 'c2d', 0)
    assert is_finished(Study(studied, CONFIGS, quick=True, options=OPTIONS), run)
    changed = Study(studied, CONFIGS, quick=True, options=OPTIONS | {'iterations': 11})
    assert not is_finished(changed, run)
    moved = Study(tmp_path, CONFIGS, quick=True, options=OPTIONS | {'iterations': 11})
    shutil.copytree(studied / 'runs', tmp_path / 'runs')
    missing = missing_runs(moved, [run])
    ended = list(work_through(moved, missing, jobs=2))  # one after the other for all that
    assert ended == [(Run('image', 'c2d', 0), True), (run, True)]
    assert is_finished(moved, run)
    assert result(moved.folder(run))['iterations'] == 11


def test_a_failed_run_is_named_and_the_others_go_on(
    tool, command, own_configs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(tool, 'measure_costs', lambda *_: {'models': {}, 'failed': []})
    broken = own_configs / 'models/temporal_conv.py'
    broken.write_text(broken.read_text() + "model['backbone']['softmax'] = True\n")
    bad, good = 'direction-temporal_conv-0', 'direction-c2d-0'
    with pytest.raises(SystemExit, match=f'{bad}: ValueError: between_frames') as error:
        tool.main([*command(tmp_path, only=[bad, good]), '--configs', str(own_configs)])
    assert str(tmp_path / f'runs/{bad}/log.txt') in str(error.value)
    assert good not in str(error.value)
    assert result(tmp_path / 'runs' / good)['iterations'] == 10
    assert not (tmp_path / f'runs/{bad}/result.json').exists()
    assert 'mmengine' not in ''.join(capsys.readouterr())  # that is in the logs


@pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
def test_a_stopped_study_leaves_no_process_and_no_result(command, tmp_path):
    options = ['iterations=1000']
    arguments = [sys.executable, TOOL, *command(tmp_path, only=[START], options=options)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / 'runs' / START
    while not list(folder.glob('2*')) and process.poll() is None:  # MMEngine has started
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert 'the same command goes on' in said
    assert not (folder / 'result.json').exists()
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            assert str(folder) not in file.read_text()
        except OSError:  # it has ended
            continue


# The plan


def test_each_model_meets_each_task_with_each_seed(tmp_path):
    names = [run.name for run in Study(tmp_path, CONFIGS).runs]
    assert len({*names}) == len(names) == 2 + 15 * 2 * 3
    assert names[:2] == ['image-c2d-0', 'image-swin_2d-0']
    assert [int(name[-1]) for name in names[2:]] == [0] * 30 + [1] * 30 + [2] * 30
    assert len(Study(tmp_path, CONFIGS, videos=tmp_path).runs) == 2 + 15 * 5 * 3
    assert len(Study(tmp_path, CONFIGS, quick=True).runs) == 1 + 3 * 2


def test_runs_differ_in_nothing_but_what_is_compared(tmp_path):
    study = Study(tmp_path, CONFIGS)
    config, other = (study.config(Run('direction', 'sifa', seed)) for seed in (0, 1))
    assert other.randomness.seed == other.train_dataloader.dataset.seed == 1
    assert other.val_dataloader == config.val_dataloader  # the same clips test all
    assert config.val_dataloader.dataset.stream == 1
    assert config.train_dataloader.dataset.num_clips == 500 * 32
    tsm = study.config(Run('direction', 'tsm', 0))
    differs = {key for key in config if config[key] != tsm[key]}
    assert differs == {'model'}
    assert tsm.model.backbone.pop('between_frames').type == 'TemporalShift'
    assert tsm.model == config.model


def test_processes_of_a_cluster_share_the_runs(tool, tmp_path, monkeypatch, capsys):
    taken = []

    def take(study, runs, jobs, device):
        taken.append([run.name for run in runs])
        yield from ()

    monkeypatch.setattr(tool, 'work_through', take)
    monkeypatch.setenv('SLURM_NTASKS', '3')
    with pytest.raises(SystemExit):
        tool.main(['--out', str(tmp_path), '--quick'])
    assert "run those before, by srun ... --only 'image-*'" in capsys.readouterr().err
    study = Study(tmp_path, CONFIGS, quick=True)
    start, *runs = study.runs
    study.folder(start).mkdir(parents=True)
    (study.folder(start) / 'result.json').write_text(json.dumps(dict(digest=study.digest(start))))
    study.weights(start).touch()
    for rank in range(3):
        monkeypatch.setenv('SLURM_PROCID', str(rank))
        tool.main(['--out', str(tmp_path), '--quick'])
    assert [len(share) for share in taken] == [2, 2, 2]
    assert {name for share in taken for name in share} == {run.name for run in runs}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--only', '*-sifa-0', 'sifa'], 'no run is like sifa: expected TASK-MODEL-SEED'),
        (['--quick'], 'has a full study, not a quick one: name another folder'),
        (['--cfg-options', 'learning_rate=1'], 'learning_rate has no effect as an option'),
        (['--cfg-options', 'model=1'], 'the config cannot be used (AttributeError'),
        (['--cfg-options', 'train_dataloader.dataset=1'], 'the config cannot be used (Attrib'),
        (['--jobs', '0'], '--jobs must be 1 or more, got 0'),
        (['--videos', 'nowhere'], '--videos must be a folder, and nowhere is none'),
        (['--report-only'], 'there is no result to report in'),
        (['--page', str(ROOT / 'README.md')], 'README.md must have each marker once'),
    ],
)
def test_what_cannot_be_done_is_said_in_words(tool, tmp_path, capsys, arguments, message):
    (tmp_path / '.full').touch()
    with pytest.raises(SystemExit, match='2'):
        tool.main(['--out', str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_no_videos_are_an_error_in_words(tmp_path):
    for count, message in enumerate(['no video in the folder', 'must hold two videos or more']):
        with pytest.raises(ValueError, match=message):
            Study(tmp_path, CONFIGS, videos=tmp_path).config(Run('play_order', 'sifa', 0))
        (tmp_path / f'{count}.mp4').touch()
    with pytest.raises(ValueError, match='these tasks need a folder of videos, --videos'):
        Study(tmp_path, CONFIGS).config(Run('play_order', 'sifa', 0))


# Real videos


@pytest.mark.parametrize('task', VIDEO_TASKS)
def test_order_tasks_take_any_folder_of_videos(task, motion_data, tmp_path):
    study = Study(tmp_path, CONFIGS, videos=motion_data, options=ON_VIDEOS)
    run = Run(task, 'sifa_from_scratch', 0)
    study.write(run)
    labels = 8 if task == 'panning_crop' else 2
    listed = {}
    for part in ('train', 'val'):
        lines = (study.folder(run) / f'{part}_list_videos.txt').read_text().splitlines()
        listed[part] = [line.split('\t') for line in lines]
    names = {part: {name for name, _ in rows} for part, rows in listed.items()}
    assert (len(names['train']), len(names['val'])) == (20, 5)
    assert not names['train'] & names['val']
    for part, rows in listed.items():
        assert sorted(rows) == sorted(
            [name, str(label)] for name in names[part] for label in range(labels)
        )
    measured = train_and_test(study.folder(run))
    assert measured['num_classes'] == labels
    assert measured['iterations'] == {2: 10, 8: 40}[labels]  # 20 videos, each once with each label
    assert not measured['by_displacement']
    assert is_finished(study, run)


def test_other_videos_are_another_config(motion_data, tmp_path):
    run, digests = Run('play_order', 'c2d', 0), set()
    for folder in (motion_data, motion_data / 'videos_train'):
        digests.add(Study(tmp_path, CONFIGS, videos=folder).digest(run))
    assert len(digests) == 2


def test_held_out_clips_of_videos_are_drawn_anew(motion_data, tmp_path):
    study = Study(tmp_path, CONFIGS, videos=motion_data, options=ON_VIDEOS | dict(test_clips=40))
    run = Run('play_order', 'c2d', 0)
    study.write(run)
    clips, again = (DATASETS.build(study.config(run).val_dataloader.dataset) for _ in range(2))
    assert len(clips) == 40  # 5 videos, 2 labels, 4 times
    drawn = [clips[idx]['inputs'] for idx in (0, 10, 20)]
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])
    assert torch.equal(again[20]['inputs'], drawn[2])


# Measures


def sample(right, **meta):
    scores = torch.tensor([0.1, 0.2, 0.7])
    return dict(pred_score=scores, gt_label=torch.tensor([2 if right else 0]), **meta)


def test_accuracy_is_told_by_a_meta_key():
    metric = METRICS.build(dict(type='AccuracyBy', key='displacement'))
    metric.process({}, [sample(True, displacement=4.0), sample(False, displacement=4.0)])
    metric.process({}, [sample(True, displacement=0.5), sample(True, displacement=16.0)])
    assert metric.evaluate(size=4) == {
        'acc/top1': 0.75,
        'acc/displacement=0.5': 1.0,
        'acc/displacement=4': 0.5,
        'acc/displacement=16': 1.0,
    }
    with pytest.raises(ValueError, match="expects samples with 'displacement', got the keys"):
        metric.process({}, [sample(True)])


@pytest.fixture
def scene():
    """Sprites that move by 8 pixels to the right: 2 cells of a map of 16 x 16."""
    return sample_scene(np.random.default_rng(3), 'direction', label=0, displacement=8)


def layer(offset_x=0.0, weights=1.0, length=8):
    offset = np.zeros((length - 1, 9, 2, 16, 16), np.float32)
    offset[:, :, 1] = offset_x
    weights = np.broadcast_to(
        np.asarray(weights, np.float32).reshape(1, 1, -1, 1, 1), (length - 1, 1, 9, 16, 16)
    )
    return LayerAttention('sifa', 3, 1, range(length), offset, weights, offset[:, 0, 0])


def test_offsets_that_are_the_motion_have_no_error(scene):
    errors = offset_errors(layer(offset_x=2), scene)
    assert len(errors['attended']) > 50
    np.testing.assert_allclose(errors['attended'], 0, atol=1e-5)
    np.testing.assert_allclose(errors['nearest'], 0, atol=1e-5)
    np.testing.assert_allclose(errors['no_motion'], 8, atol=1e-5)
    np.testing.assert_allclose(errors['nearest_undeformed'], 4, atol=1e-5)  # a cell further


def test_without_offsets_the_error_is_the_motion(scene):
    errors = offset_errors(layer(), scene)
    np.testing.assert_allclose(errors['attended'], 8, atol=1e-5)
    np.testing.assert_array_equal(errors['nearest'], errors['nearest_undeformed'])


def test_samples_outside_of_the_frame_are_counted(scene):
    np.testing.assert_array_equal(offset_errors(layer(offset_x=20), scene)['outside'], 1)


def test_the_attended_place_is_weighted_by_the_size_of_the_weights(scene):
    weights = np.zeros(9)
    weights[4], weights[5] = 1, -3  # the centre, and its neighbour at the right
    errors = offset_errors(layer(weights=weights), scene)
    np.testing.assert_allclose(errors['attended'], 8 - 0.75 * 4, atol=1e-5)


class TellsTheMotion(BaseModel):
    """Its only layer predicts offsets from a map that is the true motion, of x and y first."""

    def __init__(self, clips):
        super().__init__()
        self.clips = clips
        self.sifa = SIFA(channels=2, motion_rescaling=False)

    def forward(self, inputs, data_samples, mode):
        pass

    def test_step(self, data):
        scenes = [self.clips.scene(sample.sample_idx) for sample in data['data_samples']]
        features = np.zeros((len(scenes), 4, 2, 16, 16), np.float32)
        for feature, scene in zip(features, scenes, strict=True):
            true, _ = true_places(scene, 16, 16)
            feature[1:] = (true - np.indices((16, 16)))[:, ::-1]
        return self.sifa(torch.from_numpy(features))


def test_the_best_linear_prediction_is_the_motion_where_that_can_be_read(tmp_path):
    config = Study(tmp_path, CONFIGS).config(Run('direction', 'sifa', 0))
    clips = DATASETS.build(dict(config.val_dataloader.dataset, num_clips=50))
    model = TellsTheMotion(clips)
    fits = fit_motion(model, clips, batch_size=20)
    expected = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    expected[0, 1, 1, 1] = expected[1, 0, 1, 1] = 1
    torch.testing.assert_close(fits, {'sifa': expected}, atol=1e-4, rtol=0)
    for record in measure_offsets(watch(model, clips, fits, num_clips=6)):
        assert record['best_linear'] < 1e-3


def test_cells_that_leave_the_frame_do_not_count(scene):
    counted = len(offset_errors(layer(), scene)['attended'])
    moving = [scene.flow(t)[1].reshape(16, 4, 16, 4).mean(axis=(1, 3)) > 0.5 for t in range(7)]
    assert counted == sum(cells[:, :14].sum() for cells in moving)
    assert counted < sum(cells.sum() for cells in moving)


def test_cases_are_positions_of_clips_that_move_from_the_best_to_the_worst(tmp_path):
    config = Study(tmp_path, CONFIGS).config(Run('direction', 'undeformed', 0))
    clips = DATASETS.build(config.val_dataloader.dataset)
    cases = find_cases(watch(MODELS.build(config.model), clips, num_clips=12))
    assert 1 < len(cases) <= 6
    assert {case.displacement for case in cases} <= {4, 8, 16}
    errors = [case.error() for case in cases]
    assert errors == sorted(errors)
    for case in cases:
        assert case.places.counted[case.position]
        all_errors = case.places.error()[case.places.counted]
        assert (all_errors < case.error()).sum() == len(all_errors) // 2
    with pytest.raises(ValueError, match='two cases or more to draw, got 1'):
        draw_cases(cases[:1])


def test_tubelets_are_refused(scene):
    with pytest.raises(ValueError, match='a feature frame for each of 8 frames, got 2 in sifa'):
        offset_errors(layer(length=2), scene)
