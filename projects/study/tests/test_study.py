"""The study's command: its runs, and the report of them."""

import copy
import functools
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
from mmaction.registry import MODELS
from mmengine.config import Config

from mmsifa.fileio.atomic_write import write_atomically
from study import (
    TASKS,
    Run,
    Study,
    format_results,
    is_finished,
    missing_runs,
    overview,
    read_results,
    real_tables,
    summarize,
    train_and_test,
    work_through,
    write_report,
)
from study.charts import draw_accuracy
from study.plan import CONFIGS, NETWORKS
from study.real_videos import VIDEO_SETS

pytestmark = pytest.mark.slow
TOOL = CONFIGS.parent / 'run.py'
OPTIONS = {
    'iterations': 10,
    'batch_size': 4,
    'test_clips': 24,
    'disturbances.nothing.noise': 0,
}
NAMES = ['direction-c2d-0', 'direction-sifa_slow_offsets-0']
START = 'image-c2d-0'


@pytest.fixture(scope='module')
def tool():
    """The script as a module, which times the networks briefly."""
    spec = importlib.util.spec_from_file_location('run_study', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ReportSettings = functools.partial(module.ReportSettings, seconds=0.01)
    return module


@pytest.fixture(scope='module')
def command():
    def command(out, *, only=NAMES, options=()):
        tiny = [f'{name}={value}' for name, value in OPTIONS.items()]
        return ['--out', str(out), '--quick', '--only', *only, '--cfg-options', *tiny, *options]

    return command


@pytest.fixture(scope='module')
def quick_runs(forked):
    """Let runs start as forks of a process that has their imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'executable', shutil.which('python', path=forked['PATH']))
        yield


@pytest.fixture(scope='module')
def studied(tmp_path_factory, tool, command, quick_runs):
    """The folder of a study of two runs."""
    out = tmp_path_factory.mktemp('study')
    tool.main(command(out))
    return out


def result(folder):
    return json.loads((folder / 'result.json').read_text())


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.glob('runs/*/*') if path.is_file()}


# Runs


def test_a_study_runs_through(studied):
    (results,) = json.loads((studied / 'results.json').read_text()).values()
    assert [run['run'] for run in results['runs']] == [START, *NAMES]
    summary = summarize(results)
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


def test_the_report_needs_json_files_alone(studied, tool, capsys, tmp_path):
    for name in (*NAMES, START):
        (tmp_path / 'runs' / name).mkdir(parents=True)
        shutil.copy(studied / 'runs' / name / 'result.json', tmp_path / 'runs' / name)
    shutil.copy(studied / 'costs.json', tmp_path)
    page = tmp_path / 'page.md'
    mark = next(iter(tool.TABLES))
    page.write_text(f'# Study\n\n{mark} old {tool.END}\n\nThat is all.\n')
    command = ['--out', str(tmp_path), '--quick', '--report-only', '--page', str(page)]
    tool.main(command)
    table, _ = (tmp_path / 'table.md').read_text().split('\n| name the motion: top-1 %, by pixels')
    assert page.read_text() == (f'# Study\n\n{mark}\n\n{table}\n{tool.END}\n\nThat is all.\n')
    page.write_text(f'{[*tool.TABLES][1]}\n{tool.END}\n')  # of real videos, of which there is none
    with pytest.raises(SystemExit):
        tool.main(command)
    assert 'has no result for the table of' in capsys.readouterr().err
    page.write_text(f'{mark}\n{tool.END}\n')
    written = ('results.json', 'table.md', 'costs.png', 'offsets_direction.png')
    for name in written:
        assert (tmp_path / name).read_bytes() == (studied / name).read_bytes()
    shutil.rmtree(tmp_path / 'runs')  # results.json alone is enough
    for name in ('costs.json', *written[1:]):
        (tmp_path / name).unlink()
    tool.main(command)
    for name in written:
        assert (tmp_path / name).read_bytes() == (studied / name).read_bytes()


def test_a_study_goes_on_from_written_results(studied, tool, command, tmp_path):
    svms = dict(gestures=dict(clips=142, top1=0.9, shuffled=0.2))
    other = dict(costs=None, svms=None, runs=[dict(run='direction-tsm-0', seed=0)])
    results = {'full': other, 'quick': read_results(studied, 'quick') | dict(svms=svms)}
    (tmp_path / 'results.json').write_text(format_results(results))
    tool.main(command(tmp_path))
    assert not list(tmp_path.glob('runs/*/config.py'))  # nothing ran
    assert read_results(tmp_path, 'quick') == results['quick']
    assert (tmp_path / 'results.json').read_text() == format_results(results)


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
    studied, tool, command, tmp_path, capsys, monkeypatch
):
    shutil.copytree(studied / 'runs' / START, tmp_path / 'runs' / START)
    monkeypatch.setattr(tool, 'measure_costs', lambda *_: {'models': {}, 'failed': []})
    network = NETWORKS['temporal_conv']
    broken = network.changes | {'model.backbone.num_heads': 2}
    monkeypatch.setitem(NETWORKS, 'temporal_conv', network._replace(changes=broken))
    bad, good = 'direction-temporal_conv-0', 'direction-c2d-0'
    with pytest.raises(SystemExit, match=f'{bad}: ValueError: between_frames') as error:
        tool.main(command(tmp_path, only=[bad, good]))
    assert str(tmp_path / f'runs/{bad}/log.txt') in str(error.value)
    assert good not in str(error.value)
    assert result(tmp_path / 'runs' / good)['iterations'] == 10
    assert not (tmp_path / f'runs/{bad}/result.json').exists()
    assert 'mmengine' not in ''.join(capsys.readouterr())  # that is in the logs


@pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
def test_a_stopped_study_leaves_no_process_and_no_result(command, tmp_path, quick_runs):
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
        (['--page', str(CONFIGS.parents[2] / 'README.md')], 'README.md must have each marker once'),
    ],
)
def test_what_cannot_be_done_is_said_in_words(tool, tmp_path, capsys, arguments, message):
    (tmp_path / '.full').touch()
    with pytest.raises(SystemExit, match='2'):
        tool.main(['--out', str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_real_videos_need_packages(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'find_spec', lambda name: name != 'sklearn')
    with pytest.raises(SystemExit, match='2'):
        tool.main(['--out', str(tmp_path / 'out'), '--videos', str(tmp_path)])
    assert "--videos needs sklearn: pip install 'mmsifa[study]'" in capsys.readouterr().err


# The committed results: all runs of the plan, each of its config, and what is made of them

PROJECT = CONFIGS.parent
RESULTS = PROJECT / 'results.json'
KINDS = ('full', 'quick')


@pytest.mark.parametrize('kind', KINDS)
def test_every_run_is_there_and_of_its_config(kind, tmp_path, monkeypatch):
    read = functools.cache(Config.fromfile)  # a file is of many runs
    monkeypatch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(read(path)))
    for name, videos in VIDEO_SETS.items():
        clips = [f'{n}.mp4,{n % 10},{p}' for n, p in enumerate((*videos.parts, 'other') * 10)]
        write_atomically(
            tmp_path / name / 'clips.csv', '\n'.join([f'file,label,{videos.column}', *clips])
        )
    videos = tmp_path if kind == 'full' else None
    study = Study(tmp_path, CONFIGS, quick=kind == 'quick', videos=videos)
    results = read_results(PROJECT, kind)
    digests = {run['run']: run['digest'].partition('-')[0] for run in results['runs']}
    assert digests == {run.name: study.digest(run).partition('-')[0] for run in study.runs}
    costs = results['costs']
    assert costs['failed'] == []
    assert set(costs['models']) == {run.model for run in study.runs if run.task in TASKS}


def test_each_run_has_a_line():
    assert format_results({kind: read_results(PROJECT, kind) for kind in KINDS}) == (
        RESULTS.read_text()
    )


def test_the_report_is_made_of_them_alone(tmp_path):
    shutil.copy(RESULTS, tmp_path)
    write_report(tmp_path, 'quick')
    pictures = {f'{name}_{task}.png' for name in ('accuracy', 'learning', 'offsets')
                for task in ('direction', 'parts')}  # fmt: skip
    assert {path.name for path in tmp_path.glob('*')} == {
        'results.json', 'table.md', 'costs.png', *pictures
    }  # fmt: skip
    assert (tmp_path / 'results.json').read_text() == RESULTS.read_text()


def test_accuracy_is_drawn_where_all_seeds_have_the_same():
    entry = summarize(read_results(PROJECT))['tasks']['direction']
    spreads = [s for m in entry['models'].values() for s in m['by_displacement'].values()]
    assert any(spread['std'] == 0 for spread in spreads)
    assert draw_accuracy(entry).startswith(b'\x89PNG')


def test_the_pages_show_the_tables_and_the_pictures():
    page, summary = (PROJECT / 'README.md').read_text(), summarize(read_results(PROJECT))
    assert overview(summary) in page
    assert {*re.findall(r'\]\((\w+\.png)\)', page)} == {p.name for p in PROJECT.glob('*.png')}
    assert real_tables(summary) in (PROJECT.parents[1] / 'docs/real_videos.md').read_text()
