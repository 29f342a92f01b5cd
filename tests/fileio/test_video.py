"""Videos: the frames that FFmpeg's own program shows, by number, in every container."""

import functools
import gc
import os
import re
import subprocess
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from mmaction.visualization import ActionVisualizer
from mmengine.dataset import Compose

from mmsifa.datasets import reading_process
from mmsifa.datasets.reading_process import read_in_process
from mmsifa.fileio import video
from mmsifa.fileio.video import UnreadableVideoError, VideoReader, VideoWriter, check_frames

H264 = ('-c:v', 'libx264', '-g', '20', '-bf', '3', '-pix_fmt', 'yuv420p')
COUNT = 60


def ffmpeg(*arguments, **kwargs):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-y', *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **kwargs).stdout


def numbered(number):
    """A picture whose stripes are the bits of a number."""
    image = np.full((32, 64, 3), 90, np.uint8)
    for bit in range(8):
        image[8:24, 8 * bit : 8 * bit + 8] = 235 if number >> bit & 1 else 20
    return image


def number_of(image):
    stripes = image[12:20].mean((0, 2)).reshape(8, 8)[:, 2:6].mean(1)
    return sum(int(shade > 127) << bit for bit, shade in enumerate(stripes))


def encode(*options):
    def make(path):
        size = ('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', '64x32', '-r', '30')
        frames = b''.join(numbered(i).tobytes() for i in range(COUNT))
        ffmpeg(*size, '-i', '-', *options, path, input=frames)

    return make


def copied(*before, of=H264, after=(), suffix='.mp4'):
    """A maker of a file that is cut out of another one without encoding it anew."""

    def make(path):
        source = path.with_name(f'source{suffix}')
        encode(*of)(source)
        ffmpeg(*before, '-i', source, '-c', 'copy', *after, path)

    return make


def halved(*options, suffix):
    """A maker of a stream that starts between key frames."""

    def make(path):
        source = path.with_name(f'source{suffix}')
        encode(*options)(source)
        content = source.read_bytes()
        start = len(content) // 3 // 188 * 188  # MPEG-TS has packets of that size
        path.write_bytes(content[start:])

    return make


def twice(path):
    encode(*H264)(path)
    path.write_bytes(path.read_bytes() * 2)


MPEG2 = ('-c:v', 'mpeg2video', '-bf', '2', '-q:v', '2', '-pix_fmt', 'yuv420p')
HEVC = ('-c:v', 'libx265', '-x265-params', 'log-level=error:keyint=20', '-pix_fmt', 'yuv420p')
OPEN = (*H264, '-x264-params', 'open-gop=1')
FILES = {
    'h264.mp4': encode(*H264),
    'h264.mkv': encode(*H264),
    'h264.avi': encode(*H264),
    'h264.ts': encode(*H264),
    'h264.mpg': encode(*H264),
    'h264.flv': encode(*H264),
    'elementary.h264': encode(*H264),
    'fragmented.mp4': encode(*H264, '-movflags', 'frag_keyframe+empty_moov'),
    'open_gop.mp4': encode(*OPEN),
    'intra_refresh.mp4': encode(*H264[:4], '-x264-params', 'intra-refresh=1'),
    'xvid.avi': encode('-c:v', 'mpeg4', '-bf', '2', '-g', '20', '-q:v', '2'),
    'mpeg4.avi': encode('-c:v', 'mpeg4', '-g', '20', '-q:v', '2'),
    'mjpeg.avi': encode('-c:v', 'mjpeg', '-q:v', '2', '-pix_fmt', 'yuvj420p'),
    'mpeg1.mpg': encode('-c:v', 'mpeg1video', *MPEG2[2:]),
    'mpeg2.mpg': encode(*MPEG2),
    'mpeg2.ts': encode(*MPEG2),
    'vp8.webm': encode('-c:v', 'libvpx', '-auto-alt-ref', '1', '-lag-in-frames', '16'),
    'vp9.webm': encode('-c:v', 'libvpx-vp9', '-lag-in-frames', '16', '-g', '20'),
    'av1.mp4': encode('-c:v', 'libsvtav1', '-g', '20', '-pix_fmt', 'yuv420p'),
    'wmv.wmv': encode('-c:v', 'wmv2', '-q:v', '2'),
    'theora.ogv': encode('-c:v', 'libtheora', '-q:v', '8'),
    'trimmed.mp4': copied('-ss', 0.9),
    'trimmed_at_both_ends.mov': copied('-ss', 0.4, after=('-t', 0.9)),
    'trimmed_open_gop.mp4': copied('-ss', 0.8, of=OPEN),
    'trimmed_hevc.mov': copied('-ss', 0.8, of=HEVC),
    'trimmed.mkv': copied('-ss', 0.9, suffix='.mkv'),
    'starts_between_key_frames.ts': halved(*H264, suffix='.ts'),
    'starts_between_key_frames.mpg': halved(*MPEG2, suffix='.mpg'),
    'twice_the_same_stream.ts': twice,
}
SHOWN = {'trimmed.mp4': 33, 'trimmed_at_both_ends.mov': 29, 'twice_the_same_stream.ts': 2 * COUNT}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder in which a file is made when it is asked for."""
    folder = tmp_path_factory.mktemp('videos')

    def file(name):
        if not (folder / name).exists():
            FILES[name](folder / name)
        return folder / name

    return file


def shown(path):
    """The pictures that FFmpeg's program writes, turned as it turns them."""
    info = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), '-i', path], capture_output=True, text=True, check=False
    ).stderr
    width, height = map(int, re.findall(r', (\d+)x(\d+)', info)[0])
    if re.search(r'rotation of -?90', info):
        width, height = height, width
    raw = ffmpeg('-i', path, '-fps_mode', 'passthrough', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-')
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize('name', FILES)
def test_frames_are_those_that_are_shown_in_any_order(files, name):
    expected = [number_of(image) for image in shown(files(name))]
    if name in SHOWN:
        assert len(expected) == SHOWN[name]
    reader = VideoReader(files(name))
    assert [number_of(image) for image in reader] == expected
    order = np.random.default_rng(0).permutation(len(expected)).tolist()
    assert [number_of(reader[i]) for i in order] == [expected[i] for i in order]
    steps = np.diff(reader.times)
    np.testing.assert_allclose(steps, steps.mean(), atol=2e-3)
    if name != 'elementary.h264':  # which has no times
        assert reader.get_avg_fps() == pytest.approx(30, rel=0.02)
    check_frames(reader, thorough=True)


@pytest.mark.parametrize('name', ['h264.avi', 'h264.ts', 'mpeg1.mpg', 'xvid.avi', 'trimmed.mp4'])
@pytest.mark.parametrize('reader', ['Decord', 'OpenCV', 'PyAV', 'PIMS'])
def test_pipelines_get_the_frames_that_they_ask_for(files, name, reader):
    sampling = dict(type='SampleFrames', clip_len=4, frame_interval=5, num_clips=2, test_mode=True)
    steps = [dict(type=f'{reader}Init'), sampling, dict(type=f'{reader}Decode')]
    results = Compose(steps)(dict(filename=str(files(name)), start_index=0))
    frames = [number_of(image) for image in shown(files(name))]
    assert results['total_frames'] == len(frames)
    assert len(set(results['frame_inds'])) == 8
    assert [number_of(x) for x in results['imgs']] == [frames[i] for i in results['frame_inds']]


def test_the_fast_mode_of_decord_gets_them_too(files):
    steps = [dict(type='DecordInit'), dict(type='DecordDecode', mode='efficient')]
    results = Compose(steps)(dict(filename=str(files('h264.mp4')), frame_inds=np.array([7, 33])))
    assert [number_of(image) for image in results['imgs']] == [7, 33]


def test_decord_stays_an_option(files):
    steps = [dict(type='UpstreamDecordInit', num_threads=2), dict(type='UpstreamDecordDecode')]
    results = dict(filename=str(files('h264.mp4')), frame_inds=np.array([7, 33]))
    opened = Compose(steps[:1])(dict(results))
    assert type(opened['video_reader']).__module__.startswith('decord')
    assert [number_of(image) for image in Compose(steps)(results)['imgs']] == [7, 33]


def test_mmaction2_draws_the_frames_that_are_shown(files):
    drawn = ActionVisualizer()._load_video(str(files('trimmed.mp4')))
    np.testing.assert_array_equal(np.stack(drawn)[..., ::-1], shown(files('trimmed.mp4')))


def test_frames_are_numbered_from_zero_to_the_last_one(files):
    reader = VideoReader(files('trimmed.mp4'))
    for wrong in (-1, len(reader)):
        with pytest.raises(IndexError, match=f'expected frames 0 to 32, got {wrong}'):
            reader[wrong]
    assert [number_of(image) - 27 for image in reader.get_batch([5, 3, 5])] == [5, 3, 5]


def test_a_reader_that_is_done_with_closes_its_file_at_once(files):
    gc.disable()  # or cycles of objects would be closed by and by
    try:
        before = len(os.listdir('/proc/self/fd'))
        for name in ('h264.mp4', 'h264.avi', 'mpeg1.mpg'):
            reader = VideoReader(files(name))
            reader.get_batch([30, 5])
            del reader
        assert len(os.listdir('/proc/self/fd')) == before
    finally:
        gc.enable()


def test_a_file_object_is_read_like_a_path(files):
    with files('h264.avi').open('rb') as file:
        reader = VideoReader(file)
        assert [number_of(reader[i]) for i in (40, 7, 55)] == [40, 7, 55]


def test_a_title_in_another_encoding_hides_no_frame(files, tmp_path):
    path = tmp_path / 'latin.mp4'
    ffmpeg('-i', files('h264.mp4'), '-c', 'copy', '-metadata', 'title=Ete a Nimes', path)
    content = path.read_bytes()
    assert content.count(b'Ete a Nimes') == 1
    path.write_bytes(content.replace(b'Ete a Nimes', 'Été à Nîmes'.encode('latin-1')))
    assert len(VideoReader(path)) == COUNT


def test_other_storage_is_read_as_its_backend_gives_it(files):
    folder = files('h264.mp4').parent
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with HTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/h264.mp4'
        step = Compose([dict(type='DecordInit', io_backend='http')])
        reader = step(dict(filename=address))['video_reader']
        server.shutdown()
    assert number_of(reader[33]) == 33


@pytest.mark.parametrize(
    'filters',
    [('-display_rotation', 90), ('-display_rotation', 180), ('-display_hflip',)],
    ids=['quarter turn', 'half turn', 'mirrored'],
)
def test_frames_are_turned_and_mirrored_as_players_do(tmp_path, filters):
    source, path = tmp_path / 'source.mp4', tmp_path / 'turned.mp4'
    ffmpeg('-f', 'lavfi', '-i', 'testsrc=size=96x64:rate=10:duration=1', *H264, source)
    ffmpeg(*filters, '-i', source, '-c', 'copy', path)
    np.testing.assert_array_equal(VideoReader(path).get_batch(range(10)), shown(path))


def test_times_are_those_of_the_frames(tmp_path):
    path = tmp_path / 'variable.mp4'
    with VideoWriter(path) as writer:
        times = [0.1 * i for i in range(10)] + [1 + 0.5 * i for i in range(5)]
        for i, (start, end) in enumerate(zip(times, [*times[1:], 3.5], strict=True)):
            writer.write(numbered(i), start, end)
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.times, times, atol=1e-4)
    assert reader.duration == pytest.approx(3.5, abs=1e-3)
    seconds = (0, 0.25, 1, 1.6, 9)
    assert [reader.frame_at(second) for second in seconds] == [0, 2, 10, 11, 14]
    assert [number_of(image) for image in reader] == list(range(15))


def test_times_that_repeat_are_kept(tmp_path):
    source, path = tmp_path / 'source.mp4', tmp_path / 'rounded.mkv'
    times = [0, 0.1, 0.2, 0.2002, 0.4, 1.4, 2.4, 2.5]
    with VideoWriter(source) as writer:
        for i, (start, end) in enumerate(pairwise(times)):
            writer.write(numbered(i), start, end)
    ffmpeg('-i', source, '-c', 'copy', path)  # two frames of one millisecond
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.times, times[:-1], atol=1e-3)
    assert [number_of(reader[i]) for i in (4, 2, 3, 6)] == [4, 2, 3, 6]


@pytest.mark.parametrize('offset', [0, 500], ids=['back', 'ahead'])
def test_joined_streams_go_on_in_time(files, tmp_path, offset):
    first, second, path = (tmp_path / name for name in ('1.ts', '2.ts', 'joined.ts'))
    ffmpeg('-i', files('h264.mp4'), '-c', 'copy', '-output_ts_offset', 200, first)
    ffmpeg('-i', files('h264.mp4'), '-c', 'copy', '-output_ts_offset', offset, second)
    path.write_bytes(first.read_bytes() + second.read_bytes())
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.times, np.arange(120) / 30, atol=0.04)
    expected = [*range(COUNT), *range(COUNT)]
    assert [number_of(image) for image in reader] == expected
    assert [number_of(reader[i]) for i in (100, 3, 61)] == [40, 3, 1]


def test_the_stream_that_players_show_is_read(files, tmp_path):
    thumb, path = tmp_path / 'thumb.mp4', tmp_path / 'thumb_first.mp4'
    ffmpeg('-f', 'lavfi', '-i', 'testsrc=size=96x64', '-frames:v', 1, '-c:v', 'mjpeg', thumb)
    inputs = ('-i', thumb, '-i', files('h264.mp4'), '-map', '0:v', '-map', '1:v', '-c', 'copy')
    ffmpeg(*inputs, '-disposition:0', '0', '-disposition:1', 'default', path)
    assert [number_of(image) for image in VideoReader(path)] == list(range(COUNT))

    song = tmp_path / 'song.mp4'
    sound = ('-f', 'lavfi', '-i', 'sine=duration=1', '-i', thumb, '-map', '0', '-map', '1')
    ffmpeg(*sound, '-c:v', 'copy', '-disposition:v', 'attached_pic', song)
    with pytest.raises(UnreadableVideoError, match='it has no video, expected a file with one'):
        VideoReader(song)


def test_every_frame_of_a_fast_video_has_its_time(tmp_path):
    with VideoWriter(tmp_path / 'fast.mp4') as writer:
        for i in range(12):
            writer.write(numbered(i), i / 2400, (i + 1) / 2400)
    reader = VideoReader(tmp_path / 'fast.mp4')
    assert [reader.frame_at(time) for time in reader.times] == list(range(12))


def test_threads_share_a_reader_and_it_starts_none(files):
    before = len(os.listdir('/proc/self/task'))
    reader = VideoReader(files('h264.mp4'))
    found = dict.fromkeys(range(4))

    def read(seed):
        order = np.random.default_rng(seed).integers(0, COUNT, 20).tolist()
        found[seed] = [number_of(reader[i]) for i in order] == order

    reader[5]
    assert len(os.listdir('/proc/self/task')) == before
    threads = [threading.Thread(target=read, args=(seed,)) for seed in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found.values())


def test_going_back_a_little_costs_no_new_start(files, monkeypatch):
    reader = VideoReader(files('h264.avi'))
    opened = []
    start = VideoReader._open
    monkeypatch.setattr(VideoReader, '_open', lambda self: opened.append(1) or start(self))
    order = [30, 31, 25, 40, 1, 59, 58, 40]
    assert [number_of(reader[i]) for i in order] == order
    assert len(opened) == 1


@pytest.fixture
def decoded(monkeypatch):
    """A list to which each frame is added that is decoded."""
    found = []
    frames = video._frames

    def spy(frame):
        found.append(frame)
        return frame

    monkeypatch.setattr(video, '_frames', lambda *args: map(spy, frames(*args)))
    return found


@pytest.mark.parametrize('name', ['h264.mp4', 'h264.mkv', 'h264.ts', 'h264.flv', 'mpeg4.avi'])
def test_no_more_is_decoded_than_from_the_last_key_frame_on(files, name, decoded):
    for index in (25, 40, 59):
        reader = VideoReader(files(name))
        decoded.clear()
        assert number_of(reader[index]) == index
        if name.startswith('h264') and index % 20:  # without frames that no other one needs
            assert 0 < len(decoded) <= index % 20
        else:
            assert len(decoded) == index % 20 + 1


def test_frames_that_clips_share_are_decoded_once(files, decoded):
    clips = [*range(20, 36), *range(28, 44), *range(24, 40)]
    images = VideoReader(files('h264.mp4')).get_batch(clips)
    assert [number_of(image) for image in images] == clips
    assert len(decoded) == 24


@pytest.mark.parametrize(
    'codec', [H264, ('-c:v', 'cinepak', '-pix_fmt', 'rgb24')], ids=['converted', 'as stored']
)
def test_whoever_draws_on_a_frame_changes_no_other(codec, tmp_path):
    encode(*codec)(tmp_path / 'video.mov')
    reader = VideoReader(tmp_path / 'video.mov')
    first, again = reader.frames([5, 5])
    first[:] = 0
    assert number_of(again) == 5
    again[:] = 0
    assert [number_of(reader[i]) for i in (6, 5)] == [6, 5]


def test_no_frame_comes_that_needs_a_damaged_one(files):
    good = files('h264.mp4').read_bytes()
    with av.open(str(files('h264.mp4'))) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    kinds = set()
    for packet in packets[20:36]:  # from the second key frame on
        middle, end = packet.pos + packet.size // 2, packet.pos + packet.size
        reader = VideoReader(BytesIO(good[:middle] + bytes(end - middle) + good[end:]))
        assert [number_of(reader[i]) for i in (5, 45)] == [5, 45]
        needed = packet.is_keyframe or good[packet.pos + 4] >> 5 > 0  # nal_ref_idc
        kinds.add(needed)
        if needed:
            with pytest.raises(UnreadableVideoError):
                reader[37]
        else:
            assert number_of(reader[37]) == 37
    assert len(kinds) == 2


def outcomes(path):
    """Yield what comes of damaged copies of a video: how many of the frames asked for are right."""
    good = Path(path).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        garbled = bytearray(good)
        for place in rng.integers(0, rng.choice([len(good), 3000]), rng.integers(1, 30)):
            garbled[place] = rng.integers(256)
        for bad in (garbled, good[: rng.integers(1, len(good))]):
            try:
                reader = VideoReader(BytesIO(bad))
                places = rng.permutation(len(reader))[:8].tolist()
                yield np.mean([number_of(reader[i]) == i for i in places])
            except UnreadableVideoError:
                yield 'refused'


@pytest.mark.parametrize('name', ['xvid.avi', 'mpeg4.avi', 'mjpeg.avi', 'h264.avi', 'h264.flv'])
def test_no_damage_crashes_the_decoder(files, name):
    found = read_in_process(outcomes, files(name))
    assert len(found) == 40
    assert {'refused', 1} <= set(found)


def collected(path):
    yield gc.collect() >= 0


def test_a_process_does_not_collect_the_decoders_of_the_one_that_forked_it(files, monkeypatch):
    monkeypatch.setattr(reading_process, 'TIMEOUT', 20)
    gc.disable()
    try:
        garbage = [VideoReader(files('h264.mp4'), num_threads=2)]
        assert number_of(garbage[0][5]) == 5
        garbage.append(garbage)
        del garbage
        assert read_in_process(collected, files('h264.mp4')) == [True]
    finally:
        gc.enable()


def test_a_video_without_a_decoder_is_an_error(files):
    good = files('mpeg4.avi').read_bytes()
    with pytest.raises(UnreadableVideoError, match='FFmpeg knows no decoder for its video'):
        VideoReader(BytesIO(good.replace(b'FMP4', b'ZZZZ')))


def test_frames_that_differ_after_seeking_are_found(files, monkeypatch):
    reader = VideoReader(files('h264.mp4'))
    by_stamp = VideoReader._frame_by_stamp

    def one_off(reader, index, stamps):
        off = int(0 < index <= reader._position < len(reader))
        return by_stamp(reader, index - off, stamps)

    monkeypatch.setattr(VideoReader, '_frame_by_stamp', one_off)
    with pytest.raises(UnreadableVideoError, match=r'frame \d+ is another one after seeking'):
        check_frames(reader)


def test_frames_that_are_missing_are_an_error(tmp_path, files):
    reader = VideoReader(files('h264.mp4'))
    reader._stamps.append(reader._stamps[-1] + 512)  # one more than there is
    reader._length += 1
    assert number_of(reader[59]) == 59
    with pytest.raises(UnreadableVideoError, match='decodes to 60 frames, expected the 61 that'):
        reader[60]


def test_what_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, size, error, message in (
        (tmp_path / 'missing' / 'a.mp4', 64, FileNotFoundError, 'No such file or directory'),
        (Path('a:b.mp4'), 20000, ValueError, r'H\.264 cannot hold frames of 20000 x 2 pixels'),
        (tmp_path / 'a.mp4', 20000, ValueError, r'H\.264 cannot hold frames of 20000 x 2 pixels'),
    ):
        with pytest.raises(error, match=message), VideoWriter(path) as writer:
            writer.write(np.zeros((2, size, 3), np.uint8), 0, 1)
