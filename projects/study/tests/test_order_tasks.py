"""Tasks made of any video: its order, its speed, and a crop that moves over it."""

import decord
import numpy as np
import pytest
from mmaction.registry import DATASETS
from mmengine.dataset import Compose

from study import PanningCrop, PlayOrder, PlaySpeed

DECODE = [dict(type='DecordInit'), dict(type='DecordDecode')]


@pytest.fixture(scope='module')
def video(motion_data):
    """A video of 18 frames of 64 x 64, and its frames."""
    path = str(min((motion_data / 'videos_val').glob('*.mp4')))
    return path, decord.VideoReader(path).get_batch(range(18)).asnumpy()


def played(path, label, sample, *after):
    pipeline = Compose([DECODE[0], sample, DECODE[1], *after])
    return pipeline(dict(filename=path, label=label, start_index=0, modality='RGB'))


# Order and speed


@pytest.mark.parametrize('label', [0, 1])
def test_the_label_is_the_order(video, label):
    path, frames = video
    sample = dict(type='SampleFrames', clip_len=6, frame_interval=2, test_mode=True)
    imgs = played(path, label, sample, dict(type='PlayOrder'))['imgs']
    forwards = frames[3:15:2]
    np.testing.assert_array_equal(imgs, forwards[::-1] if label else forwards)


@pytest.mark.parametrize('label', [0, 1, 2])
def test_the_label_is_the_speed(video, label):
    path, frames = video
    interval = (1, 2, 4)[label]
    sample = dict(type='PlaySpeed', clip_len=4, intervals=(1, 2, 4))
    starts = set()
    for _ in range(40):
        results = played(path, label, sample)
        inds = results['frame_inds']
        assert np.diff(inds).tolist() == [interval] * 3
        np.testing.assert_array_equal(results['imgs'], frames[inds])
        assert (results['clip_len'], results['num_clips']) == (4, 1)
        starts.add(inds[0])
    assert len(starts) > 1


def test_speeds_of_one_video_follow_its_label_each_time():
    speed = PlaySpeed(clip_len=3, intervals=(1, 3), test_mode=True)
    for label in (0, 1, 0):
        results = speed(dict(total_frames=7, start_index=1, label=label))
        assert results['frame_inds'].tolist() == ([3, 4, 5] if label == 0 else [1, 4, 7])


def test_a_video_too_short_for_the_fastest_class_is_refused_in_every_class():
    speed = PlaySpeed(clip_len=3, intervals=(1, 3))
    for label in (0, 1):
        with pytest.raises(ValueError, match=r'need a video of 7 frames or more, but a\.mp4 has 6'):
            speed(dict(total_frames=6, start_index=0, label=label, filename='a.mp4'))


# A moving crop


@pytest.fixture(scope='module')
def places():
    """Frames whose colours are each pixel's (x, y) and the frame's number."""
    y, x = np.mgrid[:40, :50]
    return [np.dstack([x, y, 0 * x + t]).astype(np.uint8) for t in range(5)]


@pytest.mark.parametrize('displacement', [0, 2, 2.5, 3])
@pytest.mark.parametrize('label', range(8))
def test_the_label_is_the_direction_of_the_crop(places, label, displacement):
    crop = PanningCrop(size=20, displacement=displacement)
    angle = label * np.pi / 4
    path = np.outer(np.arange(5) * displacement, [np.cos(angle), np.sin(angle)])
    for _ in range(20):
        results = crop(dict(imgs=places, label=label))
        imgs = np.stack(results['imgs']).astype(int)
        assert imgs.shape == (5, 20, 20, 3)
        assert results['img_shape'] == (20, 20)
        corners = imgs[:, 0, 0, :2]
        assert np.abs(corners - corners[0] - path).max() <= 0.5 + 1e-9
        np.testing.assert_array_equal(imgs[:, -1, -1, :2], corners + 19)
        assert imgs[:, 0, 0, 2].tolist() == [0, 1, 2, 3, 4]


def test_the_middle_of_the_path_is_uniform_and_the_same_for_every_label(places):
    crop = PanningCrop(size=20, displacement=3)
    middles = []
    for label in range(8):
        np.random.seed(0)  # noqa: NPY002
        clips = [crop(dict(imgs=places, label=label))['imgs'] for _ in range(600)]
        middles.append([(c[0][0, 0, :2].astype(int) + c[-1][0, 0, :2]) / 2 for c in clips])
    middles = np.array(middles)
    assert np.abs(middles - middles[0]).max() <= 0.5
    assert middles[0].min(axis=0).tolist() == [6, 6]
    assert middles[0].max(axis=0).tolist() == [24, 14]
    np.testing.assert_allclose(middles[0].mean(axis=0), (15, 10), atol=0.7)


def test_frames_without_room_for_the_path_are_an_error(places):
    message = (
        'crops of 20 pixels that move by 5.5 pixels per frame for 5 frames need frames of 42x42 '
        'or more, got 50x40; enlarge the frames first'
    )
    for label in (0, 2):
        with pytest.raises(ValueError, match=message):
            PanningCrop(size=20, displacement=5.5)(dict(imgs=places, label=label))
    PanningCrop(size=20, displacement=5)(dict(imgs=places, label=0))  # just fits


def test_a_data_set_of_crops_is_made_of_an_annotation_list(video, tmp_path):
    path, frames = video
    (tmp_path / 'list.txt').write_text(f'{path} 0\n{path} 4\n')
    videos = DATASETS.build(
        dict(
            type='VideoDataset',
            ann_file=str(tmp_path / 'list.txt'),
            pipeline=[
                dict(type='DecordInit'),
                dict(type='SampleFrames', clip_len=8, test_mode=True),
                dict(type='DecordDecode'),
                dict(type='PanningCrop', size=32, displacement=4),
                dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs'),
            ],
        )
    )
    for index, label in enumerate((0, 4)):
        packed = videos[index]
        assert packed['inputs'].shape == (1, 3, 8, 32, 32)
        assert packed['data_samples'].gt_label.tolist() == [label]
        assert packed['data_samples'].img_shape == (32, 32)
        first, last = packed['inputs'][0, :, 0].numpy(), packed['inputs'][0, :, -1].numpy()
        shift = 28 if label == 0 else -28  # 7 steps of 4 pixels
        windows = {
            image.transpose(2, 0, 1)[:, y : y + 32, x : x + 32].tobytes(): (t, x, y)
            for t, image in ((5, frames[5]), (12, frames[12]))
            for y in range(33)
            for x in range(33)
        }
        (t_first, x_first, y_first), (t_last, x_last, y_last) = (
            windows[np.ascontiguousarray(image).tobytes()] for image in (first, last)
        )
        assert (t_first, t_last, x_last - x_first, y_first) == (5, 12, shift, y_last)


@pytest.mark.parametrize(
    ('transform', 'label', 'message'),
    [
        (PlayOrder(), 2, 'PlayOrder has 2 labels, 0 to 1, got 2 for a.mp4; write a list'),
        (PlaySpeed(2, (1, 2, 3)), -1, 'PlaySpeed has 3 labels, 0 to 2, got -1 for a.mp4'),
        (PanningCrop(8, 1), 8, 'PanningCrop has 8 labels, 0 to 7, got 8 for a.mp4'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_of_other_tasks_are_errors(transform, label, message, places):
    results = dict(imgs=places, label=label, total_frames=9, start_index=0, filename='a.mp4')
    with pytest.raises(ValueError, match=message):
        transform(results)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: PlaySpeed(4, ()), r'intervals must be one or more numbers from 1 on, got \(\)'),
        (lambda: PlaySpeed(4, (0, 1)), r'intervals must be .* got \(0, 1\)'),
        (lambda: PanningCrop(0, 1), 'size must be 1 pixel or more, got 0'),
        (lambda: PanningCrop(8, -1), 'displacement must be 0 pixels per frame or more, got -1'),
    ],
)
def test_arguments_out_of_range_are_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_transforms_print_their_arguments():
    assert repr(PlayOrder()) == 'PlayOrder()'
    assert repr(PanningCrop(8, 1.5)) == 'PanningCrop(size=8, displacement=1.5)'
    speed = 'PlaySpeed(clip_len=4, intervals=(1, 2), num_clips=1, test_mode=False)'
    assert repr(PlaySpeed(4, (1, 2))) == speed
