"""The commands of docs/cluster.md for Slurm, on a real Slurm of two nodes on this machine."""

import json

import pytest
import torch
from cluster_page import (
    check_killed_rank,
    check_ranks,
    command,
    environment,
    records,
    same,
    weights,
    workplace,
)
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

ONE_NODE = {'--gpus 8 --gpus-per-node 8': '--gpus 2 --gpus-per-node 2', 'NAME': 'ci'}
TWO_NODES = {'--gpus 16 --gpus-per-node 8': '--gpus 2 --gpus-per-node 1', 'NAME': 'ci'}
BY_SCRIPT = {'GPUS=16 GPUS_PER_NODE=8': 'GPUS=2 GPUS_PER_NODE=1', 'NAME': 'ci'}


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster


@pytest.fixture(scope='module')
def place(tmp_path_factory, motion_data):
    """Where all trainings start from weights that are not those of their seed."""
    folder = workplace(tmp_path_factory.mktemp('cluster') / 'place', motion_data, type='BN2d')
    cfg = Config.fromfile(folder / 'configs/sifa_r50_k400.py')
    init_default_scope('mmaction')
    torch.manual_seed(1)
    torch.save(MODELS.build(cfg.model).state_dict(), folder / 'weights.pth')
    cfg.load_from = str(folder / 'weights.pth')
    cfg.dump(folder / 'configs/sifa_r50_k400.py')
    return folder


@pytest.fixture(scope='module')
def env(cluster, forked):
    """Variables in which the tasks of jobs are forks."""
    path = f'{forked["PATH"]}:{cluster.env["PATH"]}'
    return environment(**cluster.env | {'PATH': path})


@pytest.fixture(scope='module')
def train(place, run, env):
    """Run a command of the page into a work folder."""

    def train(name, title, replaced, *more, env=env, **kwargs):
        work = place / name
        more = ('--work-dir', str(work), *more)
        return work, run(*command(title, replaced, *more), cwd=place, env=env, **kwargs)

    return train


@pytest.fixture(scope='module')
def one_node(cluster, train):
    """By programs that start on their own."""
    return train('one', 'Slurm', ONE_NODE, env=environment(**cluster.env))[0]


def test_the_script_says_how_it_is_used(run):
    done = run('bash', 'tools/slurm_train.sh', 'ci', 'job', check=False)
    assert done.returncode == 2
    assert 'PARTITION JOB_NAME CONFIG [ARGS...]' in done.stdout


def nodes(work):
    return [rank['node'] for rank in records(work)]


def test_one_node_trains(one_node, motion_data):
    check_ranks(one_node, motion_data)
    assert nodes(one_node) == ['0', '0']


def test_two_nodes_train_as_one(one_node, train, motion_data):
    work, _ = train('two', 'two nodes of Slurm', TWO_NODES)
    check_ranks(work, motion_data)
    assert nodes(work) == ['0', '1']
    assert same(weights(work / 'epoch_1.pth'), weights(one_node / 'epoch_1.pth'))


def test_a_killed_rank_ends_the_job_and_the_run_resumes(train):
    check_killed_rank(train, 'Slurm by the script', BY_SCRIPT)


def test_a_job_out_of_time_goes_on_as_if_it_had_not_stopped(cluster, one_node, place, train):
    """Its signal comes in the middle of the epoch, before it can take it, and when all is done."""
    size = '--nodes 2 --gres gpu:1 --ntasks-per-node 1 --cpus-per-task 2 --output job.log'
    # A data loader's worker gets the signal, too; the update of the second iteration is waited for
    options = ['train_dataloader.num_workers=1', 'default_hooks.signal.type=SignalJob']
    options.append('default_hooks.preemption.interval=1')
    more = ('--cfg-options', *options, 'default_hooks.signal.iters=1')
    replaced = {'NAME': 'ci', '--nodes 2': size}
    env = environment(**cluster.env)  # Slurm sends a signal to what descends from a task
    work, done = train('requeued', 'longer than a job', replaced, *more, env=env)
    job = done.stdout.split()[-1]
    log = place / 'job.log'

    def state() -> dict[str, str]:
        fields = cluster.run('scontrol', 'show', 'job', job).split()
        return dict(field.split('=', 1) for field in fields if '=' in field)

    def ended_or_restarted(times: int) -> bool:
        now = state()
        return now['JobState'] in ('COMPLETED', 'FAILED') or int(now['Restarts']) == times

    for times in (1, 2):
        cluster.wait('the job runs on', lambda times=times: ended_or_restarted(times), 300, log)
        assert state()['Restarts'] == str(times), log.read_text()[-4000:]
        cluster.wait('the nodes are not free', cluster.idle, 120)
        # Not after two minutes, but in another second than that of its end, or the node refuses it
        cluster.run('scontrol', 'update', f'JobId={job}', 'StartTime=now+2')
    cluster.wait('the job runs on', lambda: ended_or_restarted(3), 300, log)
    text = log.read_text()
    assert state()['JobState'] == 'COMPLETED', text[-4000:]
    assert text.count(f'Job {job} goes back into the queue') == 2
    assert 'resumed epoch: 0, iter: 2' in text
    assert 'resumed epoch: 0, iter: 4' in text
    assert same(weights(work / 'epoch_1.pth'), weights(one_node / 'epoch_1.pth'))


def test_tasks_of_srun_share_a_study(env, run, tmp_path):
    tasks = ('direction', 'parts')
    names = [f'{task}-sifa_from_scratch-0' for task in tasks]
    options = ['--cfg-options', 'iterations=10', 'batch_size=4', 'test_clips=24']
    study = ['python', 'projects/study/run.py', '--out', tmp_path, '--jobs', '1', '--only', *names]
    srun = ['srun', '-p', 'ci', '-n', '2', '--label']
    done = run(*srun, *study, *options, env=env)
    for rank, name in enumerate(names):
        measured = json.loads((tmp_path / 'runs' / name / 'result.json').read_text())
        assert measured['iterations'] == 10
        assert f'{rank}: The study is in {tmp_path}' in done.stdout
    results = json.loads((tmp_path / 'results.json').read_text())['full']
    assert [run['run'] for run in results['runs']] == names
