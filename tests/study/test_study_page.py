"""docs/study.md and docs/study/: what is there is what the runs gave, and the text says no more."""

import json
import math
import shutil
from pathlib import Path

import pytest

from mmsifa.study import IMAGE, Study, is_finished, read_results, write_report

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/study.md').read_text()
FULL = ROOT / 'docs/study'
QUICK = FULL / 'quick'
RUNS = read_results(FULL)
RESNETS_WITH_SIFA = ('sifa', 'sifa_slow_offsets', 'sifa_softmax', 'sifa_taps', 'sifa_layer2')
ATTENTION = ('undeformed', 'unscaled', *RESNETS_WITH_SIFA)
TASKS = 'direction', 'parts'


@pytest.fixture(scope='module')
def results():
    return json.loads((FULL / 'results.json').read_text())['tasks']


@pytest.fixture(scope='module')
def mean(results):
    """Mean accuracy, over all displacements or at one."""

    def mean(task, model, displacement=None):
        values = results[task]['models'][model]
        return (values['by_displacement'][displacement] if displacement else values['top1'])['mean']

    return mean


def runs(task, model):
    """Result of each seed."""
    found = RUNS[task, model]
    assert [run['seed'] for run in found] == [0, 1, 2]
    return found


def seeds(task, model, displacement=None):
    """Accuracy of each seed, over all displacements or at one."""
    return [
        run['by_displacement'][displacement] if displacement else run['top1']
        for run in runs(task, model)
    ]


def always_better(task, model, other):
    return all(a > b for a, b in zip(seeds(task, model), seeds(task, other), strict=True))


def at_16_pixels(results, task, model):
    """Where a model's layers look."""
    records = results[task]['models'][model]['offsets']
    return [record for record in records if record['displacement'] == 16]


def total(records, measure):
    return sum(record[measure]['mean'] for record in records)


@pytest.mark.parametrize('folder', [FULL, QUICK], ids=['full', 'quick'])
def test_every_run_is_there_and_of_its_config(folder):
    study = Study(folder, ROOT / 'configs/study', quick=folder == QUICK)
    assert [run.name for run in study.runs if not is_finished(study, run)] == []
    assert {path.name for path in folder.glob('runs/*')} == {run.name for run in study.runs}
    costs = json.loads((folder / 'costs.json').read_text())
    assert costs['failed'] == []
    assert set(costs['models']) == {run.model for run in study.runs if run.task != IMAGE}


@pytest.mark.parametrize('folder', [FULL, QUICK], ids=['full', 'quick'])
def test_the_report_is_that_of_the_runs(folder, tmp_path):
    shutil.copytree(folder / 'runs', tmp_path / 'runs')
    shutil.copy(folder / 'costs.json', tmp_path)
    write_report(tmp_path)
    for name in ('results.json', 'table.md'):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    written, committed = ({path.name for path in out.glob('*.png')} for out in (tmp_path, folder))
    assert committed == written


def test_the_page_shows_the_report():
    assert (FULL / 'table.md').read_text() in PAGE
    assert all(f'(study/{path.name})' in PAGE for path in FULL.glob('*.png'))


def test_the_quick_study_has_the_order_of_the_full_one(mean):
    quick = json.loads((QUICK / 'results.json').read_text())['tasks']
    for task in TASKS:
        models = quick[task]['models']
        in_order = sorted(models, key=lambda model: models[model]['top1']['mean'])
        assert in_order == sorted(models, key=lambda model: mean(task, model))


# What follows


def test_attention_relates_frames(mean):
    assert all(abs(top1 - 1 / 8) < 0.02 for top1 in seeds('direction', 'c2d'))
    assert all(top1 < 9 / 16 for top1 in seeds('parts', 'c2d'))
    for task in TASKS:
        assert all(mean(task, model) > mean(task, 'c2d') + 0.15 for model in ATTENTION)


def test_fixed_positions_lose_with_the_displacement_in_parts(mean):
    for model in ('temporal_conv', 'tsm', 'undeformed'):
        still, fast = (seeds('parts', model, displacement) for displacement in ('0', '16'))
        assert all(a > b for a, b in zip(still, fast, strict=True))
        near, far = (mean('direction', model, displacement) for displacement in ('2', '8'))
        assert near <= far


def test_deformation_helps_without_following_the_motion(results, mean):
    for model in ('sifa', 'sifa_slow_offsets', 'unscaled'):
        assert always_better('direction', model, 'undeformed')
    assert always_better('parts', 'sifa_slow_offsets', 'undeformed')
    losses = {}
    for model in ('sifa_slow_offsets', 'undeformed'):
        still, fast = (mean('parts', model, displacement) for displacement in ('0', '16'))
        losses[model] = still - fast
        assert mean('parts', 'sifa_slow_offsets', '0') > mean('parts', 'undeformed', '0')
    assert losses['sifa_slow_offsets'] >= losses['undeformed']
    looks, still = (
        [record for task in TASKS for record in at_16_pixels(results, task, model)]
        for model in ('sifa_slow_offsets', 'undeformed')
    )
    for measure in ('attended', 'nearest'):
        assert total(looks, measure) >= total(still, measure)
    assert total(looks, 'best_linear') < min(total(still, 'attended'), total(looks, 'no_motion'))


def test_convolutions_are_better(mean):
    steps = ('1', '2', '4', '8', '16')
    for model in ATTENTION:
        for task in TASKS:
            assert all(mean(task, 'temporal_conv', s) > mean(task, model, s) for s in steps)
            assert mean(task, model) < mean(task, 'tsm') < mean(task, 'temporal_conv')
        assert mean('parts', 'temporal_conv', '0') > mean('parts', model, '0')


def test_motion_rescaling_gains_nothing(mean):
    assert abs(mean('direction', 'unscaled') - mean('direction', 'sifa')) < 0.02
    assert always_better('parts', 'unscaled', 'sifa')


def test_offsets_at_a_tenth_are_better(results, mean):
    assert abs(mean('direction', 'sifa_slow_offsets') - mean('direction', 'sifa')) < 0.02
    assert always_better('parts', 'sifa_slow_offsets', 'sifa')
    for task in TASKS:
        fast, still, slow = (
            [record['outside']['mean'] for record in at_16_pixels(results, task, model)]
            for model in ('sifa', 'undeformed', 'sifa_slow_offsets')
        )
        assert all(a > b > c for a, b, c in zip(fast, still, slow, strict=True))


def test_swins_need_convolutions():
    def has_learnt(run):
        return run['loss'][len(run['loss']) // 2] < math.log(8) - 0.1

    pairs = []
    for task in TASKS:
        conv, sifa, both = (runs(task, f'swin_{name}') for name in ('conv', 'sifa', 'both'))
        assert not any(has_learnt(run) for run in sifa)
        for run in conv + sifa + both:
            if has_learnt(run):
                assert run['top1'] > 0.2
                assert run['by_displacement']['16'] < run['by_displacement']['4']
            else:
                assert run['top1'] < 0.15
                assert run['loss'][-1] > math.log(8) - 0.05
        pairs += zip(conv, both, strict=True)
    assert sum(has_learnt(run) for pair in pairs for run in pair) == 9
    ahead = [a['top1'] > b['top1'] for a, b in pairs if has_learnt(a) and has_learnt(b)]
    assert sorted(ahead) == [False, True, True, True]


# Recipes


def test_recipes_are_those_of_the_runs(mean):
    assert sum(top1 > 0.5 for top1 in seeds('direction', 'sifa_from_scratch')) == 1
    assert all(top1 < 0.15 for top1 in seeds('parts', 'sifa_from_scratch'))
    assert always_better('direction', 'sifa_softmax', 'sifa')
    assert always_better('parts', 'sifa', 'sifa_softmax')
    assert all(abs(mean(task, 'sifa_layer2') - mean(task, 'sifa')) < 0.03 for task in TASKS)
    assert all(top1 < 0.16 for top1 in seeds('direction', 'sifa_layer3'))
    assert all(abs(mean(task, 'sifa_taps') - mean(task, 'sifa')) < 0.02 for task in TASKS)
