"""The committed results: all runs of the plan, each of its config, and what is made of them."""

import re
import shutil

import pytest

from study import IMAGE, Study, format_results, overview, read_results, summarize, write_report
from study.plan import CONFIGS

pytestmark = pytest.mark.slow
PROJECT = CONFIGS.parent
RESULTS = PROJECT / 'results.json'
KINDS = ('full', 'quick')


@pytest.mark.parametrize('kind', KINDS)
def test_every_run_is_there_and_of_its_config(kind, tmp_path):
    study = Study(tmp_path, CONFIGS, quick=kind == 'quick')
    results = read_results(PROJECT, kind)
    digests = {run['run']: run['digest'] for run in results['runs']}
    assert digests == {run.name: study.digest(run) for run in study.runs}
    costs = results['costs']
    assert costs['failed'] == []
    assert set(costs['models']) == {run.model for run in study.runs if run.task != IMAGE}


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


def test_the_page_shows_the_table_and_the_pictures():
    page = (PROJECT / 'README.md').read_text()
    assert overview(summarize(read_results(PROJECT))) in page
    assert {*re.findall(r'\]\((\w+\.png)\)', page)} == {p.name for p in PROJECT.glob('*.png')}
