"""Annotation lists: good ones give MMAction2's samples, others an error that names the line."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmaction.datasets import RawframeDataset, VideoDataset
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmsifa.datasets import (
    AnnotationError,
    CheckedRawframeDataset,
    CheckedVideoDataset,
    read_annotations,
)
from mmsifa.engine.hooks.checks import datasets_of


@pytest.fixture
def write(tmp_path):
    """Write a list and return its path."""

    def write(text: str | bytes):
        path = tmp_path / 'list.txt'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def same_samples(ours, theirs):
    assert len(ours) == len(theirs)
    for i in range(len(ours)):
        one, other = ours.get_data_info(i), theirs.get_data_info(i)
        assert one.keys() == other.keys()
        for name, value in one.items():
            if torch.is_tensor(value):
                assert torch.equal(value, other[name])
            else:
                assert value == other[name]


VIDEOS = {
    'relative': ('a/1.mp4 0\nb/2.mp4 12\n', {}),
    'no newline at the end': ('a.mp4 0\nb.mp4 1', {}),
    'CRLF': ('a.mp4 0\r\nb.mp4 1\r\n', {}),
    'no root': ('/data/a.mp4 0\n../b.mp4 1\n', dict(data_prefix=dict(video=''))),
    'data_root': ('a.mp4 0\n', dict(data_root='data', data_prefix=dict(video='videos'))),
    'comma': ('my clip é.mp4,0\nb.mp4, 1\n', dict(delimiter=',')),
    'tab': ('my clip.mp4\t0\n', dict(delimiter='\t')),
    'repeated': ('a.mp4 1\nb.mp4 0\na.mp4 1\n', {}),
    'leading zeros': ('a.mp4 007\n', {}),
    'several classes': ('a.mp4 0 2\nb.mp4 1\nc.mp4\n', dict(multi_class=True, num_classes=3)),
    'no labels in a test': ('a.mp4\nb.mp4\n', dict(test_mode=True)),
    'part of a list': ('a.mp4 0\nb.mp4 1\nc.mp4 2\n', dict(indices=2)),
}


@pytest.mark.parametrize(('text', 'options'), VIDEOS.values(), ids=VIDEOS)
def test_videos_are_those_of_mmaction2(write, tmp_path, text, options):
    path = write(text)
    if 'data_root' in options:
        options = dict(options, data_root=str(tmp_path))
        path = 'list.txt'
    options = dict(dict(data_prefix=dict(video='videos')), **options)
    same_samples(CheckedVideoDataset(path, [], **options), VideoDataset(path, [], **options))


FRAMES = {
    'relative': ('a/1 30 0\nb\t5  2\n', {}),
    'offset': ('a 0 30 1\na 30 30 2\n', dict(with_offset=True)),
    'one frame folder twice': ('a 30 1\na/ 30 1\n', {}),
    'several classes': ('a 30 0 2\nb 30 1\n', dict(multi_class=True, num_classes=3)),
    'no labels in a test': ('a 30\nb 20\n', dict(test_mode=True)),
}


@pytest.mark.parametrize(('text', 'options'), FRAMES.values(), ids=FRAMES)
def test_raw_frames_are_those_of_mmaction2(write, text, options):
    path, prefix = write(text), dict(img='frames')
    ours = CheckedRawframeDataset(path, [], prefix, filename_tmpl='{:05}.jpg', **options)
    same_samples(ours, RawframeDataset(path, [], prefix, filename_tmpl='{:05}.jpg', **options))


def test_raw_frames_of_folders_with_spaces(write):
    dataset = CheckedRawframeDataset(write('my video,30,1\n'), [], dict(img='x'), delimiter=',')
    assert dataset.get_data_info(0)['frame_dir'] == 'x/my video'


def test_byte_order_mark_and_blank_lines_are_left_out(write):
    samples, largest = read_annotations(write('\ufeffa.mp4 3\n\n  \nb.mp4 5\n'))
    assert samples == [dict(filename='a.mp4', label=3), dict(filename='b.mp4', label=5)]
    assert largest == (5, 4)


@pytest.mark.parametrize(
    'save',
    [
        lambda text: text.replace('\n', '\r').encode(),
        lambda text: text.replace('\n', '\r\n').encode('utf-8-sig'),
        lambda text: text.encode('utf-16'),
        lambda text: text.replace('\n', '\r\n').encode('utf-16-be').join([b'\xfe\xff', b'']),
        lambda text: b''.join(part.encode('utf-8-sig') for part in re.split('(?<=\n)', text)),
    ],
    ids=['CR', 'CRLF and mark', 'UTF-16', 'UTF-16, high byte first', 'lists of marks in a row'],
)
def test_a_list_is_the_same_from_any_editor(write, save):
    samples, largest = read_annotations(write(save('é 中.mp4,3\n\nb\u2028.mp4,5\n')), delimiter=',')
    assert samples == [dict(filename='é 中.mp4', label=3), dict(filename='b\u2028.mp4', label=5)]
    assert largest == (5, 3)


@pytest.mark.parametrize('delimiter', ['', '1', '\n'])
def test_a_delimiter_that_separates_nothing_is_refused(write, delimiter):
    with pytest.raises(ValueError, match='must have a character, and no digit or line break'):
        read_annotations(write('a.mp4 0\n'), delimiter=delimiter)


def test_absolute_paths_below_the_root(write, tmp_path):
    path = write(f'{tmp_path}/videos/a.mp4 0\n')
    samples, _ = read_annotations(path, root=str(tmp_path / 'videos'))
    assert samples[0]['filename'] == f'{tmp_path}/videos/a.mp4'


def test_links_that_lead_out_of_the_root_are_followed(motion_data, tmp_path, write):
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos/more').symlink_to(motion_data / 'videos_val')
    video = next((motion_data / 'videos_val').glob('*.mp4'))
    steps = [dict(type='DecordInit')]
    prefix = dict(video=str(tmp_path / 'videos'))
    dataset = CheckedVideoDataset(write(f'more/{video.name} 0\n'), steps, prefix)
    assert dataset[0]['total_frames'] == 18


WRONG = {
    '..': ('../a.mp4 0', "'../a.mp4' leaves the data root 'videos'"),
    '.. inside': ('a/../../../b.mp4 0', 'leaves the data root'),
    '.. after a link': ('link/../b.mp4 0', 'leaves the data root'),
    'absolute': ('/etc/passwd 0', "'/etc/passwd' leaves the data root 'videos'"),
    'root as a prefix': ('{root}2/a.mp4 0', 'leaves the data root'),
    'backslashes': ('..\\a.mp4 0', 'leaves the data root'),
    'absolute on Windows': ('\\a.mp4 0', 'leaves the data root'),
    'drive': ('C:\\a.mp4 0', 'leaves the data root'),
    'drive with slashes': ('C:/a.mp4 0', 'leaves the data root'),
    'network share': ('//server/a.mp4 0', 'leaves the data root'),
    'fraction': ('a.mp4 1.5', "the label '1.5' is no whole number from 0 to 2"),
    'word': ('a.mp4 one', "the label 'one' is no whole number"),
    'negative': ('a.mp4 -1', "the label '-1' is no whole number"),
    'underscore': ('a.mp4 1_0', "the label '1_0' is no whole number"),
    'other digits': ('a.mp4 ٢', 'is no whole number'),
    'out of range': ('a.mp4 3', "the label '3' is no whole number from 0 to 2"),
    'many digits': ('a.mp4 ' + '9' * 5000, 'is no whole number'),
    'no label': ('a.mp4', "'a.mp4' is not of the form 'PATH LABEL'"),
    'other separator': ('a.mp4,0', "'a.mp4,0' is not of the form 'PATH LABEL'"),
    'two labels': ('a.mp4 0 1', "'a.mp4 0 1' is not of the form 'PATH LABEL'"),
    'space in the path': ('my a.mp4 0', 'a path with spaces needs another separator, such as'),
    'two spaces': ('a.mp4  0', "'a.mp4  0' is not of the form 'PATH LABEL'"),
    'NUL': ('a\0.mp4 0', "b'a\\x00.mp4 0' has the character NUL, as no text has"),
    'escape sequence': ('a\x1b[2J.mp4 0', "the path 'a\\x1b[2J.mp4' has a control character"),
    'Latin-1': (b'a\xe9.mp4 0', "b'a\\xe9.mp4 0' is not UTF-8"),
    'surrogate': (b'a\xed\xa0\x80.mp4 0', 'is not UTF-8'),
    'endless line': (b'a' * 70000, 'it has 65536 characters or more, as no text has'),
    'other label before': ('first.mp4 1', "first.mp4' has the label 1, but 0 in line 1"),
}


@pytest.mark.parametrize(('line', 'problem'), WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_named(write, tmp_path, line, problem):
    root = str(tmp_path / 'videos') if '{root}' in str(line) else 'videos'
    line = line if isinstance(line, bytes) else line.replace('{root}', root).encode()
    path = write(b'first.mp4 0\n\n' + line + b'\n')
    with pytest.raises(AnnotationError, match=re.escape(problem)) as raised:
        CheckedVideoDataset(path, [], dict(video=root), num_classes=3)
    first, second = str(raised.value).splitlines()[:2]
    assert first.endswith(f'{path} has 1 wrong line of 3:')
    assert second.startswith('  line 3: ')
    assert first.isprintable()
    assert second.isprintable()


WRONG_FRAMES = {
    'no frames': ('a 0 1', "the total_frames '0' is no whole number from 1"),
    'no number': ('a x 1', "the total_frames 'x' is no whole number"),
    'path alone': ('a', "'a' is not of the form 'PATH TOTAL_FRAMES LABEL'"),
    'no label': ('a 30', "'a 30' is not of the form"),
    'two labels': ('a 30 1 2', "'a 30 1 2' is not of the form"),
    'leaves the root': ('../a 30 1', 'leaves the data root'),
}


@pytest.mark.parametrize(('line', 'problem'), WRONG_FRAMES.values(), ids=WRONG_FRAMES)
def test_a_wrong_line_of_raw_frames_is_named(write, line, problem):
    with pytest.raises(AnnotationError, match=f'line 2: .*{re.escape(problem)}'):
        CheckedRawframeDataset(write(f'first 5 0\n{line}\n'), [], dict(img='frames'))


def test_clips_of_one_folder_may_have_labels_of_their_own_but_not_one_clip(write):
    text = 'a 0 30 1\na 30 30 2\na 0 30 3\n'
    with pytest.raises(AnnotationError, match=r'line 3: .* the label 3, but 1 in line 1'):
        CheckedRawframeDataset(write(text), [], dict(img=''), with_offset=True)


SPELLINGS = ('a//1.mp4', './a/1.mp4', 'a/./1.mp4', 'a/1.mp4/', '{root}/a/1.mp4')


@pytest.mark.parametrize(
    ('root', 'other'),
    [
        *(
            (root, other)
            for root in ('videos', './videos//', '{cwd}/videos')
            for other in SPELLINGS
        ),
        *(('', other) for other in ('{cwd}/a/1.mp4', 'b/../a/1.mp4')),
    ],
)
def test_a_file_has_one_label_however_it_is_spelt(write, tmp_path, monkeypatch, root, other):
    monkeypatch.chdir(tmp_path)
    root = root.format(cwd=tmp_path)
    other = other.format(cwd=tmp_path, root=(tmp_path / root).resolve())
    for lines in ([f'{other} 1', 'a/1.mp4 0'], ['a/1.mp4 0', f'{other} 1']):
        path = write('\n'.join(lines))
        with pytest.raises(AnnotationError, match=r"line 2: .*1\.mp4/?' has the label \d, but \d"):
            read_annotations(path, root=root)


@pytest.mark.parametrize('line', ['./a 30 1', 'a/ 30 1', 'a 29 1', 'b//../a 30 1'])
def test_a_frame_folder_has_one_label_however_it_is_spelt(write, line):
    with pytest.raises(AnnotationError, match=r'line 2: .* has the label 1, but 0 in line 1'):
        read_annotations(write(f'a 30 0\n{line}\n'), ('frame_dir', 'total_frames'))


@pytest.mark.parametrize('ann_file', [['a.txt', 'b.txt'], None, 'FOLDER'])
def test_a_data_set_has_one_list(tmp_path, ann_file):
    ann_file = str(tmp_path) if ann_file == 'FOLDER' else ann_file
    for dataset in (CheckedVideoDataset, CheckedRawframeDataset):
        with pytest.raises(
            ValueError, match=r'expects ann_file to be the path of one .*ConcatData'
        ):
            dataset(ann_file, [])


def test_a_list_may_be_a_path_object(write, tmp_path):
    write('a.mp4 0\n')
    dataset = CheckedVideoDataset(Path('list.txt'), [], data_root=str(tmp_path))
    assert len(dataset) == 1


def test_the_first_problems_are_shown_and_all_counted(write):
    path = write(''.join(f'{i}.mp4 {i if i % 2 else "x"}\n' for i in range(40)))
    with pytest.raises(AnnotationError) as raised:
        read_annotations(path)
    lines = str(raised.value).splitlines()
    assert lines[0] == f'{path} has 20 wrong lines of 40:'
    assert [line.split(':')[0] for line in lines[1:6]] == [f'  line {i}' for i in (1, 3, 5, 7, 9)]
    assert lines[6:] == ['  and 15 more']


@pytest.mark.parametrize('text', ['', '\n \n', '\ufeff'], ids=['nothing', 'blank', 'mark'])
def test_a_list_without_samples_is_refused(write, text):
    with pytest.raises(AnnotationError, match="holds no samples; expected 'PATH LABEL' on each"):
        CheckedVideoDataset(write(text), [])


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'list\.txt'):
        CheckedVideoDataset(str(tmp_path / 'list.txt'), [])


@pytest.mark.parametrize(('text', 'said'), [('a 0\nb\n', 'a label'), ('a\nb 0\n', 'no label')])
def test_labels_in_some_lines_only_are_refused_in_a_test(write, text, said):
    with pytest.raises(AnnotationError, match=f'line 2: .* is unlike line 1, with {said}'):
        CheckedVideoDataset(write(text), [], test_mode=True)


def test_several_classes_need_their_number(write):
    with pytest.raises(ValueError, match='multi_class expects num_classes'):
        CheckedVideoDataset(write('a.mp4 0 1\n'), [], multi_class=True)
    with pytest.raises(AnnotationError, match="the label '3' is no whole number from 0 to 2"):
        CheckedVideoDataset(write('a.mp4 0 3\n'), [], multi_class=True, num_classes=3)


def test_a_list_of_several_classes_to_train_on_has_a_label_somewhere(write):
    options = dict(multi_class=True, num_classes=3)
    with pytest.raises(
        AnnotationError, match=r"list\.txt has no labels; expected 'PATH LABELS' on"
    ):
        CheckedVideoDataset(write('a.mp4\nb.mp4\n'), [], **options)
    dataset = CheckedVideoDataset(write('a.mp4\nb.mp4\n'), [], test_mode=True, **options)
    assert dataset.largest_label == (-1, 0)


def test_repeated_samples_are_said_in_the_log(write, tmp_path):
    MMLogger.get_instance('repeated', log_file=str(tmp_path / 'log'))
    read_annotations(write('a.mp4 0\nb.mp4 0\na.mp4 0\n'))
    assert '1 of 3 samples are listed before' in (tmp_path / 'log').read_text()


# Labels and the network's classes


@pytest.fixture
def tiny(shrink, root, tmp_path):
    """A small config whose lists have three videos of the labels 0, 1, 0."""
    cfg = shrink(Config.fromfile(root / 'configs/sifa_r50_k400.py'))
    cfg.work_dir = str(tmp_path / 'work')
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_training_stops_before_it_starts_at_a_label_without_a_class(tiny, wrapper):
    tiny.model.cls_head.num_classes = 1
    inner = tiny.train_dataloader.dataset
    if wrapper == 'RepeatDataset':
        tiny.train_dataloader.dataset = dict(type=wrapper, times=2, dataset=inner)
    elif wrapper:
        tiny.train_dataloader.dataset = dict(type=wrapper, datasets=[inner, inner])
    tiny.val_dataloader = tiny.val_evaluator = tiny.val_cfg = None
    runner = Runner.from_cfg(tiny)
    with pytest.raises(
        ValueError,
        match=r'videos\.txt, line 2: the label 1 needs model\.cls_head\.num_classes of 2 or more, '
        'got 1, whose labels are 0 to 0',
    ):
        runner.train()
    assert runner.iter == 0


@pytest.mark.slow
def test_validation_and_test_lists_are_looked_at_too(tiny, write):
    tiny.model.cls_head.num_classes = 2
    wrong = write('a.mp4 0\nb.mp4 7\n')
    tiny.val_dataloader.dataset.ann_file = tiny.test_dataloader.dataset.ann_file = wrong
    runner = Runner.from_cfg(tiny)
    for start in (runner.train, runner.test):
        with pytest.raises(ValueError, match=r'list\.txt, line 2: the label 7 needs'):
            start()


@pytest.mark.slow
def test_a_head_that_learns_several_classes_scores_each_by_itself(tiny, write):
    for split in ('train', 'val'):
        dataset = tiny[f'{split}_dataloader'].dataset
        videos = [line.split()[0] for line in Path(dataset.ann_file).read_text().splitlines()]
        dataset.update(multi_class=True, num_classes=3)
        dataset.ann_file = write(''.join(f'{video} 0 2\n' for video in videos))
    metric = ('mean_average_precision',)
    tiny.val_evaluator = dict(type='AccMetric', metric_list=metric)
    tiny.model.cls_head.update(num_classes=3, loss_cls=dict(type='BCELossWithLogits'))
    with pytest.raises(ValueError, match=r'several labels: set model\.cls_head\.multi_class=True'):
        Runner.from_cfg(tiny).train()
    tiny.model.cls_head.multi_class = True
    runner = Runner.from_cfg(tiny)
    runner.train()
    assert runner.message_hub.get_scalar('val/acc/mean_average_precision').current() == 1


@pytest.fixture
def without_labels(tiny):
    """The small config with validation and test lists that have no labels."""
    path = tiny.val_dataloader.dataset.ann_file
    videos = [line.split()[0] for line in Path(path).read_text().splitlines()]
    unlabelled = Path(tiny.work_dir).with_name('unlabelled.txt')
    unlabelled.write_text('\n'.join(videos))
    tiny.val_dataloader.dataset.ann_file = tiny.test_dataloader.dataset.ann_file = str(unlabelled)
    return tiny


@pytest.mark.slow
@pytest.mark.parametrize('wrapped', [False, True], ids=['', 'beside a labelled one'])
def test_a_training_does_not_start_with_a_validation_list_without_labels(without_labels, wrapped):
    loader = without_labels.val_dataloader
    if wrapped:
        labelled = dict(loader.dataset, ann_file=without_labels.train_dataloader.dataset.ann_file)
        loader.dataset = dict(type='ConcatDataset', datasets=[labelled, loader.dataset])
    runner = Runner.from_cfg(without_labels)
    with pytest.raises(
        ValueError, match=r'unlabelled\.txt has no labels, which are needed for AccMetric: add them'
    ):
        runner.train()
    assert runner.iter == 0


@pytest.mark.slow
def test_a_list_without_labels_is_scored_by_a_test_that_dumps_and_not_measured(without_labels):
    with pytest.raises(
        ValueError, match=r'AccMetric: .* or test with --dump FILE\.pkl to have the'
    ):
        Runner.from_cfg(without_labels).test()
    dump = Path(without_labels.work_dir) / 'scores.pkl'
    without_labels.test_evaluator = [
        without_labels.test_evaluator,
        dict(type='DumpResults', out_file_path=str(dump)),
    ]
    assert Runner.from_cfg(without_labels).test() == {}
    scores = load(dump)
    assert len(scores) == 3
    assert all(score['filename'].endswith('.mp4') for score in scores)


def test_heads_without_a_number_of_classes_are_left_alone(tiny):
    runner = Runner.from_cfg(tiny)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    del runner.model.cls_head.num_classes
    runner.call_hook('before_run')


def test_a_data_set_may_call_what_it_likes_its_data_sets():
    named = SimpleNamespace(dataset='ucf101', datasets=['train', 'val'])
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=named))
    assert list(datasets_of(SimpleNamespace(_train_loop=loop, _val_loop={}, _test_loop={}))) == [
        named
    ]


@pytest.mark.slow
def test_all_configs_read_their_lists_strictly(root):
    for path in (root / 'configs').glob('*.py'):
        cfg = Config.fromfile(path)
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.type.startswith('Checked'), (path, split)
            assert DATASETS.get(cfg[f'{split}_dataloader'].dataset.type)
        assert cfg.default_hooks.labels.type == 'CheckLabelsHook'
