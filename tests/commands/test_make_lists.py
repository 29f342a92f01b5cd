"""Lists of a folder of videos by class."""

import shutil

import pytest

from mmsifa.__main__ import main
from mmsifa.datasets import CheckedVideoDataset, read_annotations


@pytest.fixture(scope='module')
def make_lists():
    return lambda argv: main(['make-lists', *argv])


@pytest.fixture
def videos(tmp_path):
    """Two classes of 5 and 11 videos, with files around them that are none."""
    folder = tmp_path / 'videos'
    for name, count in (('walk', 11), ('run', 5)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f'{i}.MP4').touch()
        (folder / name / 'notes.txt').touch()
        (folder / name / '.hidden.mp4').touch()
    (folder / 'README').touch()
    return folder


def fails(main, argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in argv])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].partition('error: ')[2]


def read(folder, name, delimiter=' '):
    samples, _ = read_annotations(folder / f'{name}_list_videos.txt', delimiter=delimiter)
    return {sample['filename']: sample['label'] for sample in samples}


def test_every_video_is_in_one_part_with_the_label_of_its_class(make_lists, videos, capsys):
    make_lists([str(videos)])
    assert 'videos to train, 3 to validate' in capsys.readouterr().out
    classes = (videos / 'label_map.txt').read_text().splitlines()
    assert classes == ['run', 'walk']
    train, val = read(videos, 'train'), read(videos, 'val')
    assert len(train) == 13
    assert sorted(val.values()) == [0, 1, 1]  # a fifth of 5 and of 11
    assert train | val == {
        str(path.relative_to(videos)): classes.index(path.parent.name)
        for path in videos.glob('*/[0-9]*.MP4')
    }


def test_the_seed_and_the_class_decide_the_split(make_lists, videos, tmp_path):
    for i, seed in enumerate((0, 0, 1)):
        make_lists([str(videos), '--out', str(tmp_path / str(i)), '--seed', str(seed)])
    first, again, other = (read(tmp_path / str(i), 'val') for i in range(3))
    assert first == again != other
    shutil.copytree(videos / 'run', videos / 'jump')
    make_lists([str(videos), '--out', str(tmp_path / 'more')])
    kept = {path for path in read(tmp_path / 'more', 'val') if 'jump' not in path}
    assert kept == set(first)


@pytest.mark.parametrize('share', ['0.01', '0.99'])
def test_each_class_is_in_both_parts_whatever_the_share(make_lists, videos, share):
    make_lists([str(videos), '--val-share', share])
    for name in ('train', 'val'):
        assert set(read(videos, name).values()) == {0, 1}


def test_lists_with_spaces_in_paths_are_read_by_our_data_set(
    make_lists, videos, motion_data, capsys
):
    clip = next((motion_data / 'videos_val').glob('*.mp4'))
    for i in range(2):
        target = videos / f'play guitar/take {i}.mp4'
        target.parent.mkdir(exist_ok=True)
        shutil.copy(clip, target)
    message = fails(make_lists, [videos], capsys)
    assert message.startswith("'play guitar/take ")
    assert "choose another one, such as ','." in message
    assert not [*videos.glob('*_list_videos.txt')]
    make_lists([str(videos), '--delimiter', ','])
    data = CheckedVideoDataset(
        str(videos / 'val_list_videos.txt'),
        [dict(type='DecordInit')],
        dict(video=str(videos)),
        delimiter=',',
    )
    assert data[0]['label'] == 0
    assert data[0]['total_frames'] == 18


def test_lists_that_are_there_stay(make_lists, videos, capsys):
    make_lists([str(videos)])
    before = (videos / 'train_list_videos.txt').read_text()
    make_lists([str(videos)])  # the same again is no harm
    argv = [videos, '--seed', 1]
    assert 'replace it with --overwrite' in fails(make_lists, argv, capsys)
    assert (videos / 'train_list_videos.txt').read_text() == before
    make_lists([str(arg) for arg in (*argv, '--overwrite')])
    assert (videos / 'train_list_videos.txt').read_text() != before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda folder: (folder / 'empty').mkdir(), 'empty must hold two videos or more'),
        (lambda folder: shutil.rmtree(folder / 'run'), "two folders CLASS/ or more, got ['walk']"),
        (lambda folder: shutil.rmtree(folder), 'no folder'),
        (lambda folder: (folder / 'x.mp4').touch(), 'x.mp4 is in no class'),
        (lambda folder: (folder / 'run/day1').mkdir(), 'day1 is a folder'),
        (lambda folder: (folder / 'run/a\nb.mp4').touch(), "has the character '\\n', which breaks"),
        (lambda folder: (folder / 'run/a\udcff.mp4').touch(), "has the character '\\udcff', which"),
        (lambda folder: (folder / ' a').mkdir(), ' a must hold two videos'),
        (
            lambda folder: (folder / 'run/gone.mp4').symlink_to('nowhere'),
            'gone.mp4 is a link to no',
        ),
        (
            lambda folder: (folder / 'jog').symlink_to(folder / 'run'),
            'run/0.MP4 and jog/0.MP4 are the same file, by a link: leave one of them',
        ),
    ],
    ids=[
        *('empty-class', 'one-class', 'no-folder', 'no-class', 'too-deep', 'line-break', 'no-text'),
        *('space-first', 'broken-link', 'linked-twice'),
    ],
)
def test_folders_that_make_no_lists_are_refused(make_lists, videos, change, message, capsys):
    change(videos)
    # Whichever part the file is drawn into.
    assert message in fails(make_lists, [videos], capsys)
    assert not [*videos.glob('*_list_videos.txt')]


@pytest.mark.parametrize('delimiter', ['', '0', '\n', ', 1'])
def test_delimiters_that_make_lists_unreadable_are_refused(make_lists, videos, delimiter, capsys):
    message = fails(make_lists, [videos, f'--delimiter={delimiter}'], capsys)
    assert 'must have a character, and no digit or line break' in message


def test_a_tab_can_be_typed_and_names_that_lose_a_space_are_refused(make_lists, videos, capsys):
    make_lists([str(videos), '--delimiter', r'\t'])
    assert len(read(videos, 'train', '\t')) == 13
    for i in range(2):
        (videos / f'run/{i}.mp4 ').touch()
        (videos / f' jump/{i}.mp4').parent.mkdir(exist_ok=True)
        (videos / f' jump/{i}.mp4').touch()
    message = fails(make_lists, [videos, '--delimiter', ','], capsys)
    assert "' jump/0.mp4' starts or ends with a space" in message


def test_out_that_is_a_file_is_no_list_to_overwrite(make_lists, videos, capsys):
    message = fails(make_lists, [videos, '--out', videos / 'run/1.MP4'], capsys)
    assert message.endswith('1.MP4 is a file')


@pytest.mark.parametrize('share', ['0', '1', 'nan'])
def test_shares_that_leave_a_part_empty_are_refused(make_lists, videos, share, capsys):
    message = fails(make_lists, [videos, '--val-share', share], capsys)
    assert f'must be between 0 and 1, got {share}' in message
