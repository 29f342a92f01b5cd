"""The plan of a study: its runs, and the config of each."""

import shutil

import pytest
import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper

from study import (
    IMAGE,
    NETWORKS,
    TASKS,
    TRUNKS,
    VIDEO_TASKS,
    Run,
    Study,
    is_finished,
    train_and_test,
)
from study.plan import CONFIGS

pytestmark = pytest.mark.slow
ON_VIDEOS = dict(iterations=10, batch_size=4)


@pytest.fixture
def own_configs(tmp_path):
    """A copy of the study's configs."""
    return shutil.copytree(CONFIGS, tmp_path / 'configs')


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


def test_no_videos_are_an_error_in_words(tmp_path):
    for count, message in enumerate(['no video in the folder', 'must hold two videos or more']):
        with pytest.raises(ValueError, match=message):
            Study(tmp_path, CONFIGS, videos=tmp_path).config(Run('play_order', 'sifa', 0))
        (tmp_path / f'{count}.mp4').touch()
    with pytest.raises(ValueError, match='these tasks need a folder of videos, --videos'):
        Study(tmp_path, CONFIGS).config(Run('play_order', 'sifa', 0))


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


# Configs


@pytest.mark.parametrize('model', NETWORKS | TRUNKS)
def test_a_studied_model_takes_a_step(model, tmp_path):
    study = Study(tmp_path, CONFIGS, options=dict(iterations=10, batch_size=2))
    run = Run('direction', model, 0)
    if start := study.start(run):
        study.folder(start).mkdir(parents=True)
        torch.save(MODELS.build(study.config(start).model).state_dict(), study.weights(start))
    cfg = study.config(run)
    network = MODELS.build(cfg.model)
    network.init_weights()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    clips = DATASETS.build(cfg.train_dataloader.dataset)
    wrapper = build_optim_wrapper(network.train(), cfg.optim_wrapper)
    for first in (0, 8):  # weights behind one that starts at zero move in the second step
        network.train_step(pseudo_collate([clips[first], clips[first + 1]]), wrapper)
    moved = [name for name, weight in network.named_parameters() if not weight.equal(before[name])]
    assert {*before} - {*moved} == set()


def test_the_study_has_all_its_configs():
    assert {path.stem for path in (CONFIGS / 'tasks').glob('*.py')} == {IMAGE, *TASKS, *VIDEO_TASKS}


@pytest.mark.parametrize('task', [IMAGE, *TASKS, *VIDEO_TASKS])
def test_a_config_can_inherit_a_models_and_a_tasks_parts(task, tmp_path):
    parts = [str(CONFIGS / f'{name}.py') for name in ('resnet', f'tasks/{task}')]
    (tmp_path / 'mine.py').write_text(f'_base_ = {parts}\n')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.backbone.type == 'SIFANet'
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        assert dataset.pipeline == cfg[f'{split}_pipeline']


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
