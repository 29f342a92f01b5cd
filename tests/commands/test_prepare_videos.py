"""Videos encoded anew to decode fast: the same frames at the same times, and nothing half done."""

import json
import os
import resource
import signal
import time
from contextlib import redirect_stdout
from fractions import Fraction
from io import StringIO
from multiprocessing import get_context

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type

from mmsifa.__main__ import main
from mmsifa.commands import prepare_videos
from mmsifa.datasets import read_annotations
from mmsifa.fileio import reencoding
from mmsifa.fileio.reencoding import Encoding
from mmsifa.fileio.video import VideoReader

COUNT = 40


def picture(number, width, height):
    """A smooth picture in which a bright bar moves from frame to frame."""
    y, x = np.mgrid[:height, :width]
    red = 60 + 80 * x / width
    bar = 90 * np.exp(-(((x - width * number / COUNT) / 6) ** 2))
    return np.stack([red + bar, 60 + 80 * y / height + bar, 160 - red + bar], 2).astype(np.uint8)


def encode(
    path, codec='libx264', size=(96, 64), colours='yuv420p', times=None, turned=0, span=1, **options
):
    """Encode pictures at times in milliseconds; by default 25 a second, with sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, 25, options)
        stream.width, stream.height, stream.pix_fmt = *size, colours
        stream.codec_context.time_base = Fraction(1, 1000 if times else 25)
        if turned:
            stream.set_display_rotation(turned)
        sound = file.add_stream('aac', 8000, layout='mono') if path.suffix == '.mp4' else None
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(number, *size)).reformat(format=colours)
            frame.color_range = stream.codec_context.color_range = span
            frame.pts = times[number] if times else number
            frame.time_base = stream.codec_context.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound:
            add_sound(file, sound)


def add_sound(file, stream):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
    frame.sample_rate, frame.pts = 8000, 0
    file.mux(stream.encode(frame))
    file.mux(stream.encode())


def sound_only(path):
    with av.open(str(path), 'w') as file:
        add_sound(file, file.add_stream('aac', 8000, layout='mono'))


def no_frames(path):
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', 25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv420p'
        file.start_encoding()


GAPS = np.random.default_rng(0).integers(15, 90, COUNT).cumsum().tolist()
GOOD = {
    'run/long gop.mp4': dict(g='250', bf='3'),
    'run/short_gop.mov': dict(g='4'),
    "run/it's é 中.mp4": dict(turned=90),
    'run/times.mkv': dict(times=GAPS),
    'walk/odd.mkv': dict(size=(67, 45), colours='yuv444p'),
    'walk/large_and_odd.mkv': dict(size=(135, 101), colours='yuv444p'),
    'walk/xvid.AVI': dict(codec='mpeg4', bf='2', g='20'),
    'walk/rgb.mkv': dict(codec='ffv1', colours='bgr0'),
    'walk/full_range.mp4': dict(colours='yuvj420p', span=2),
    'walk/grey.mkv': dict(colours='gray'),
    'walk/ten_bits.mp4': dict(codec='libx265', colours='yuv420p10le'),
}
BAD = {
    'run/sound.mp4': (sound_only, 'it has no video'),
    'walk/no_frames.mp4': (no_frames, 'it has no'),
    'walk/page.mp4': (lambda path: path.write_text('404 Not Found'), 'FFmpeg cannot read it'),
}


def prepare(*arguments):
    """Run the command; return its exit code and what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        code = main(['prepare-videos', *map(str, arguments), '--workers', '2'])
    return code, printed.getvalue()


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sources')
    for name, options in GOOD.items():
        encode(folder / name, **options)
    for name, (make, _) in BAD.items():
        make(folder / name)
    return folder


@pytest.fixture(scope='module')
def prepared(sources, tmp_path_factory):
    """The folder of the prepared videos, the exit code and what was printed."""
    folder = tmp_path_factory.mktemp('prepared') / 'new/small'
    return folder, *prepare(sources, folder, '--short-side', 48)


@pytest.mark.slow
@pytest.mark.parametrize('name', GOOD)
def test_frames_times_and_colours_stay(name, sources, prepared):
    old, new = VideoReader(sources / name), VideoReader((prepared[0] / name).with_suffix('.mp4'))
    assert len(new) == len(old) == COUNT
    np.testing.assert_allclose(new.times, old.times, atol=1e-9)
    assert new.duration == pytest.approx(old.duration, abs=1e-3)
    for number in range(0, COUNT, 5):
        image = old[number].astype(np.float32)
        height, width = new[number].shape[:2]
        if min(image.shape[:2]) > 48:
            rows, columns = (
                np.arange(n) * s / n for n, s in zip((height, width), image.shape, strict=False)
            )
            image = image[(rows + 0.5).astype(int)][:, (columns + 0.5).astype(int)]
        difference = new[number] - image[:height, :width]
        assert np.abs(difference).mean() < 3
        assert np.abs(difference.mean((0, 1))).max() < 2


@pytest.mark.slow
@pytest.mark.parametrize('name', GOOD)
def test_prepared_videos_are_small_upright_and_silent(name, sources, prepared):
    old = VideoReader(sources / name)
    shape = old[0].shape[:2]
    assert (shape == (96, 64)) == ('turned' in GOOD[name])
    with av.open(str((prepared[0] / name).with_suffix('.mp4'))) as file:
        (stream,) = file.streams
        keys = [packet.is_keyframe for packet in file.demux() if packet.size]
        file.seek(0)
        frame = next(file.decode(stream))
    assert keys == [number % 16 == 0 for number in range(COUNT)]
    assert frame.format.name.replace('j', '') == 'yuv420p'
    assert (frame.color_range == 2) == ('span' in GOOD[name])
    assert Type.DISPLAYMATRIX not in frame.side_data
    scale = min(1, 48 / min(shape))
    for side, was in zip((frame.height, frame.width), shape, strict=True):
        assert side % 2 == 0
        assert abs(side - was * scale) <= 1


def test_bad_videos_are_named_and_the_rest_is_listed_by_class(sources, prepared):
    folder, code, printed = prepared
    assert code == 1
    rows = dict(line.split('\t') for line in (folder / 'bad_videos.txt').read_text().splitlines())
    assert rows.keys() == {str(sources / name) for name in BAD}
    for name, (_, reason) in BAD.items():
        assert rows[str(sources / name)].startswith(reason)
        assert not (folder / name).exists()
    assert f'{len(GOOD) + 3} videos: {len(GOOD)} encoded, 0 there before, 3 bad' in printed
    summary = json.loads((folder / 'prepare_videos.json').read_text())
    assert summary['encoding'] == dict(short_side=48, keyframe_interval=16, crf=18)
    assert summary['sample']['psnr_db'] > 35
    assert summary['sample']['cpu_ms_after'] > 0
    assert not [*folder.rglob('.*.part')]


@pytest.fixture
def folder(tmp_path):
    """A folder with two videos, and the list that names them, one twice."""
    for name in ('a.mp4', 'b c.avi'):
        encode(tmp_path / 'videos' / name)
    (tmp_path / 'list.txt').write_text('b c.avi,3\na.mp4,1\n\n./b c.avi,3\ngone.mp4,0\n')
    return tmp_path


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob('*.mp4')}


def test_a_list_keeps_its_lines_but_for_bad_videos(folder):
    new = folder / 'new'
    arguments = (folder / 'list.txt', new, '--data-root', folder / 'videos', '--delimiter', ',')
    code, printed = prepare(*arguments)
    assert code == 1
    assert f'{folder}/videos/gone.mp4: No such file or directory' in printed
    samples, _ = read_annotations(new / 'list.txt', root=str(new), delimiter=',')
    assert [(sample['filename'], sample['label']) for sample in samples] == [
        (str(new / name), label) for name, label in (('b c.mp4', 3), ('a.mp4', 1), ('b c.mp4', 3))
    ]
    assert (new / 'bad_list.txt').read_text().count('\n') == 1
    before = state(new)
    (folder / 'list.txt').write_text('a.mp4,2\n')
    assert prepare(*arguments)[0] == 1  # the list there has other lines
    assert len((new / 'list.txt').read_text().splitlines()) == 3
    code, printed = prepare(*arguments, '--overwrite')
    assert code == 0
    assert '1 videos: 0 encoded, 1 there before, 0 bad' in printed
    assert (new / 'list.txt').read_text() == 'a.mp4,2\n'
    assert state(new) == before


def test_a_killed_encoder_leaves_no_video_and_the_next_one_goes_on(folder, monkeypatch):
    source, new = folder / 'videos/a.mp4', folder / 'new'
    assert prepare(folder / 'videos', new)[0] == 0
    (new / 'a.mp4').unlink()
    kept = state(new)

    def read_or_die(path):
        if str(path).endswith('.part'):  # written, and not yet checked
            signal.raise_signal(signal.SIGKILL)
        return VideoReader(path)

    with monkeypatch.context() as patched:
        patched.setattr(reencoding, 'VideoReader', read_or_die)
        arguments = source, new / 'a.mp4', Encoding()
        process = get_context('fork').Process(target=reencoding.reencode, args=arguments)
        process.start()
        process.join()
    (part,) = new.glob('.*.part')
    assert not (new / 'a.mp4').exists()
    assert '1 encoded, 1 there before' in prepare(folder / 'videos', new)[1]
    assert not part.exists()
    assert len(VideoReader(new / 'a.mp4')) == COUNT
    assert state(new).items() > kept.items()


def test_an_interrupt_keeps_what_is_done(folder, monkeypatch, capsys):
    original = prepare_videos.prepare

    def prepare_one(source, target, encoding):
        if source.endswith('a.mp4'):
            yield from original(source, target, encoding)
        while not (target.parent / 'a.mp4').exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(prepare_videos, 'prepare', prepare_one)
    assert prepare(folder / 'videos', folder / 'new')[0] == 130
    assert 'Interrupted; what is done is kept, start again' in capsys.readouterr().err
    assert {path.name for path in (folder / 'new').iterdir()} == {'prepare_videos.json', 'a.mp4'}


def test_a_crash_of_the_encoder_costs_one_video(folder, monkeypatch):
    original = prepare_videos.prepare

    def crash_or_prepare(source, target, encoding):
        if source.endswith('a.mp4'):
            signal.raise_signal(signal.SIGKILL)
        yield from original(source, target, encoding)

    monkeypatch.setattr(prepare_videos, 'prepare', crash_or_prepare)
    code, printed = prepare(folder / 'videos', folder / 'new')
    assert code == 1
    assert 'a.mp4: it crashes the decoder (SIGKILL)' in printed
    assert {path.name for path in state(folder / 'new')} == {'b c.mp4'}


def test_a_full_disk_stops_and_costs_nothing(folder, capsys):
    size = sum(path.stat().st_size for path in (folder / 'videos').iterdir()) // 8
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit))  # a disk for small files
    try:
        with pytest.raises(SystemExit, match='2'):
            prepare(folder / 'videos', folder / 'new')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    assert 'could not write' in capsys.readouterr().err
    assert [path.name for path in (folder / 'new').iterdir()] == ['prepare_videos.json']
    assert prepare(folder / 'videos', folder / 'new')[0] == 0


@pytest.mark.parametrize(
    ('change', 'arguments', 'message'),
    [
        ('', ['videos', 'videos/new'], 'DST must lie outside of SRC, got videos/new inside of'),
        ('', ['videos', 'videos'], 'DST must lie outside of SRC'),
        ('', ['nothing', 'new'], "No such file or directory: 'nothing'"),
        ('mkdir empty', ['empty', 'new'], 'no video in the folder'),
        ('', ['videos', '.'], 'has files and no prepare_videos.json: name a new folder'),
        ('', ['videos', 'list.txt'], 'list.txt is no folder'),
        ('', ['videos', '/proc/new'], 'cannot be written'),
        ('cp videos/a.mp4 videos/a.mkv', ['videos', 'new'], 'would both become new/a.mp4: rename'),
        ('', ['videos', 'new', '--data-root', '.'], '--data-root is for lists'),
        ('', ['list.txt', 'new'], 'list.txt has 1 wrong line of 2'),
        ('', ['videos', 'new', '--short-side', '255'], 'must be an even number of pixels, 16 or'),
        ('', ['videos', 'new', '--keyframe-interval', '0'], 'must be 1 frame or more, got 0'),
        ('', ['videos', 'new', '--crf', '52'], 'must be 0 to 51, got 52'),
        ('', ['videos', 'new', '--timeout', '0'], '--timeout must be above 0 seconds'),
        (
            'mkdir new; echo \'{"encoding": {"crf": 20}}\' >new/prepare_videos.json',
            ['videos', 'new'],
            "new holds videos of {'crf': 20}, not {'short_side': 256",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    tmp_path, change, arguments, message, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos/a.mp4').touch()
    (tmp_path / 'list.txt').write_text('a.mp4\nb c.mp4 0\n')
    assert os.system(change) == 0
    before = {*tmp_path.rglob('*')}
    with pytest.raises(SystemExit, match='2'):
        prepare(*arguments)
    assert message in capsys.readouterr().err
    assert {*tmp_path.rglob('*')} == before
