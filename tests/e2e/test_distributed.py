"""Several processes, really run: the commands of docs/cluster.md, on CPUs in the place of GPUs."""

import os
import re
import subprocess

import pytest
import torch
from cluster_page import (
    COMMANDS,
    ROOT,
    accuracy,
    check_killed_rank,
    check_ranks,
    command,
    commands,
    distance,
    environment,
    records,
    same,
    weights,
    workplace,
)
from mmengine.fileio import load
from slurm_cluster import free_ports


@pytest.fixture(scope='module')
def place(tmp_path_factory, motion_data):
    """Without batch norm, whose result depends on how clips are shared out."""
    folder = tmp_path_factory.mktemp('cluster') / 'place'
    return workplace(folder, motion_data, type='GN', num_groups=2)


@pytest.fixture(scope='module')
def env(forked):
    """Variables in which ranks are forks."""
    return environment(PATH=forked['PATH'])


@pytest.fixture(scope='module')
def train(place, run, env):
    """Run a command of the page into a work folder."""

    def train(name, title, replaced, *more, env=env, **kwargs):
        work = place / name
        more = ('--work-dir', str(work), *more)
        return work, run(*command(title, replaced, *more), cwd=place, env=env, **kwargs)

    return train


@pytest.fixture(scope='module')
def two_ranks(train):
    """By programs that start on their own."""
    return train('two', 'one machine', {'--gpus 8': '--gpus 2'}, env=environment())[0]


@pytest.fixture(scope='module')
def one_process(train):
    """With the clips of two ranks in its batches."""
    return train('one', 'one process', {}, '--cfg-options', 'train_dataloader.batch_size=4')[0]


def test_the_readmes_commands_are_the_pages():
    text = (ROOT / 'README.md').read_text()
    readme = [re.sub(r'\s*\\\n\s*', ' ', line) for line in re.findall(
        r'^.*--launcher (?:pytorch|slurm) --gpus(?:.*\\\n)*.*', text, re.MULTILINE)]  # fmt: skip
    assert readme == [COMMANDS['one machine'], COMMANDS['Slurm']]


def test_every_command_of_the_page_is_tested():
    tests = ('e2e/test_distributed', 'e2e/test_slurm', 'engine/test_model_wrappers')
    sources = [(ROOT / f'tests/{name}.py').read_text() for name in tests]
    for title in COMMANDS:
        assert any(f"'{title}'" in source for source in sources), title
    assert len(COMMANDS) == (ROOT / 'docs/cluster.md').read_text().count('\n# ')


def test_two_ranks_train_on_all_data_and_agree(two_ranks, motion_data):
    check_ranks(two_ranks, motion_data)


def test_two_ranks_end_where_one_process_with_their_batch_does(two_ranks, one_process):
    """With accumulated gradients; held-out scores and weights, up to the order of sums."""
    start, single = (weights_of_start(work) for work in (two_ranks, one_process))
    assert same(start, single)
    one, two = (weights(work / 'epoch_1.pth') for work in (one_process, two_ranks))
    assert not any('running' in name for name in one)  # no batch statistics
    assert distance(one, start) > 1e-3
    assert distance(one, two) < 1e-5 * distance(one, start)
    (whole,) = records(one_process)
    halves = records(two_ranks)
    scores = halves[0]['validated'] | halves[1]['validated']
    assert whole['validated'].keys() == scores.keys()
    for name, score in whole['validated'].items():
        assert scores[name] == pytest.approx(score, abs=1e-5)
    for batch, *shares in zip(whole['trained'], *(half['trained'] for half in halves), strict=True):
        assert sorted(batch) == sorted(shares[0] + shares[1])


def weights_of_start(work):
    return torch.load(work / 'ranks/initial0.pth')


def test_two_ranks_test_every_clip_once(two_ranks, place, train, motion_data):
    """9 clips on 2 ranks: the sampler repeats one, the result does not."""
    checkpoint = two_ranks / 'epoch_1.pth'
    _, done = train(
        'test', 'test on one machine', {'--gpus 8': '--gpus 2', 'FILE': str(checkpoint)}
    )
    predictions = load(str(place / 'predictions.pkl'))
    names = [os.path.basename(prediction['filename']) for prediction in predictions]
    assert len(names) == len(set(names)) == 9
    scores = {n: p['pred_score'].tolist() for n, p in zip(names, predictions, strict=True)}
    assert f'acc/top1: {accuracy(scores, motion_data):.4f}' in done.stdout


def test_two_machines_in_bfloat16_end_where_one_process_does(place, train, env, motion_data):
    """Two agents, each with one rank, that meet at one address."""
    replaced = {'HOST': '127.0.0.1', '29500': str(free_ports(1)[0])}
    replaced['--nproc-per-node 8'] = '--nproc-per-node 1'
    work = place / 'nodes'
    more = ('--work-dir', str(work), '--diff-rank-seed')  # which must not mix up the shares
    agents = []
    for rank in (0, 1):
        with (place / f'node{rank}.log').open('w') as log:
            replaced['RANK'] = str(rank)
            agents.append(subprocess.Popen(
                command('two machines without Slurm', replaced, *more),
                cwd=place, env=env, stdout=log, stderr=subprocess.STDOUT,
            ))  # fmt: skip
    try:
        codes = [agent.wait(timeout=300) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    log = (place / 'node0.log').read_text()
    assert codes == [0, 0], log[-4000:]
    assert "dtype='bfloat16'" in log or 'AmpOptimWrapper' in log
    check_ranks(work, motion_data)
    more = ('--amp', '--cfg-options', 'train_dataloader.batch_size=4')
    single, _ = train('one-bfloat16', 'one process', {}, *more)
    start = weights_of_start(work)
    one, two = (weights(folder / 'epoch_1.pth') for folder in (single, work))
    # Gradients are rounded to 8 bits before they are averaged
    assert distance(one, two) < 0.03 * distance(one, start)


def test_a_killed_rank_ends_all_and_the_run_resumes(train):
    check_killed_rank(train, 'one machine', {'--gpus 8': '--gpus 2'})


def test_commands_are_read_with_their_titles():
    page = '```bash\n# a\none \\\n    two\n\n# b\nthree\n```\n'
    assert commands(page) == {'a': 'one two', 'b': 'three'}
