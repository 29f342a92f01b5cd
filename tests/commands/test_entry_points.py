"""The commands that a user types, really run, on a small motion data set."""

import json
import re
import shutil
import sys

import pytest
from mmengine.fileio import load

CONFIG = 'configs/sifa_tiny_motion.py'
SMALL = [
    'model.backbone.base_channels=8',
    'model.backbone.stage_blocks=(1,2,1,1)',
    'model.cls_head.in_channels=256',
    'train_dataloader.batch_size=8',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='module')
def options(motion_data):
    """The --cfg-options for a small network on the small data."""
    lines = []
    for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = f'{split}_dataloader.dataset'
        lines += [
            f'{dataset}.ann_file={motion_data}/{part}_list_videos.txt',
            f'{dataset}.data_prefix.video={motion_data}/videos_{part}',
            f'{split}_dataloader.num_workers=0',
        ]
    return [*SMALL, *lines]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run, options):
    """A work folder after one epoch of ``mim train mmaction``."""
    out = tmp_path_factory.mktemp('work')
    epoch = [*options, 'train_cfg.max_epochs=1']
    run('mim', 'train', 'mmaction', CONFIG, '--work-dir', out, '--cfg-options', *epoch)
    return out


def test_train_leaves_checkpoint_and_log(trained):
    assert (trained / 'epoch_1.pth').is_file()
    lines = [json.loads(line) for line in next(trained.glob('*/vis_data/scalars.json')).open()]
    assert sum('loss' in line for line in lines) == 2
    assert 0 <= lines[-1]['acc/top1'] <= 1


def test_resume_goes_on_where_it_stopped(trained, tmp_path, run, options):
    work = tmp_path / 'work'
    shutil.copytree(trained, work)
    two = [*options, 'train_cfg.max_epochs=2']
    text = run('mim', 'train', 'mmaction', CONFIG, '--work-dir', work, '--resume', '--cfg-options',
               *two).stdout  # fmt: skip
    assert 'resumed epoch: 1, iter: 2' in text
    assert re.search(r'Epoch\(train\) +\[2\]\[2/2\]', text)
    assert not re.search(r'Epoch\(train\) +\[1\]', text)
    assert (work / 'epoch_2.pth').is_file()


def test_test_dumps_a_score_for_every_clip(trained, tmp_path, run, options):
    dump = tmp_path / 'predictions.pkl'
    text = run('mim', 'test', 'mmaction', CONFIG, '--checkpoint', trained / 'epoch_1.pth', '--dump',
               dump, '--work-dir', tmp_path, '--cfg-options', *options).stdout  # fmt: skip
    predictions = load(str(dump))
    assert len(predictions) == 9
    right = [int(p['pred_score'].argmax() == p['gt_label']) for p in predictions]
    assert f'acc/top1: {sum(right) / 9:.4f}' in text
    for prediction in predictions:
        assert prediction['pred_score'].shape == (8,)
        assert prediction['pred_score'].sum().item() == pytest.approx(1)

    picture = tmp_path / 'confusion.png'
    run('mmsifa', 'run', 'confusion_matrix', CONFIG, dump, '--show-path', picture)
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_testing_another_models_weights_is_refused(trained, tmp_path, run, options):
    wider = [*options, 'model.backbone.base_channels=16', 'model.cls_head.in_channels=512']
    done = run('mim', 'test', 'mmaction', CONFIG, '--checkpoint', trained / 'epoch_1.pth', '--dump',
               tmp_path / 'predictions.pkl', '--work-dir', tmp_path, '--cfg-options', *wider,
               check=False)  # fmt: skip
    assert done.returncode
    assert re.search(
        r'CheckpointError: refused to load the checkpoint \S*epoch_1.pth: it holds the weights of '
        r'another model, since of \d+ weights \d+ of another shape \(backbone.*\); give the config',
        done.stdout,
    )
    assert not (tmp_path / 'predictions.pkl').exists()


def test_amp_trains_on_any_device(tmp_path, run, options):
    epoch = [*options, 'train_cfg.max_epochs=1']
    text = run('mim', 'train', 'mmaction', CONFIG, '--amp', '--work-dir', tmp_path, '--cfg-options',
               *epoch).stdout  # fmt: skip
    assert 'AmpOptimWrapper' in text
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_learning_curve_needs_a_run(trained, tmp_path, run):
    run('mmsifa', 'plot', trained, '--out', tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')
    done = run('mmsifa', 'plot', tmp_path, check=False)
    assert done.returncode == 1
    assert 'holds no training run: expected TIME/vis_data/scalars.json' in done.stdout
    for options, said in (
        (['--metric', 'nope'], 'no metric nope, what it validated is: acc/'),
        (['--out', tmp_path / 'x.foo'], "Format 'foo' is not supported"),
        (['--out', tmp_path / 'none/x.png'], 'No such file or directory'),
    ):
        done = run('mmsifa', 'plot', trained, *options, check=False)
        assert (done.returncode, 'Traceback' in done.stdout) == (1, False)
        assert said in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['curve.png']


def test_mmaction2s_inference_api_works(trained, motion_data):
    from mmaction.apis import MMAction2Inferencer

    config = str(next(trained.glob('*.py')))
    inferencer = MMAction2Inferencer(
        config, rec_weights=str(trained / 'epoch_1.pth'), device='cpu',
        label_file=str(motion_data / 'label_map.txt')
    )  # fmt: skip
    video = str(next((motion_data / 'videos_val').glob('*.mp4')))
    result = inferencer(video)['predictions'][0]
    assert len(result['rec_scores'][0]) == 8
    assert sys.modules['mmsifa']
