"""``mmsifa make-motion-dataset``: only the order of the frames tells a clip's class."""

import dataclasses
import importlib
import json
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
import torch
from torch import nn

from mmsifa.__main__ import main
from mmsifa.commands import make_motion_dataset as tool
from mmsifa.datasets import motions
from mmsifa.fileio import video

MOTIONS = list(motions.MOTIONS)
OPPOSITES = list(zip(MOTIONS[::2], MOTIONS[1::2], strict=True))
SMALL = tool.MotionSettings(num_train=16, num_val=8, num_frames=5)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'motion'
    assert tool.make_dataset(out, SMALL)
    return out


def read(path):
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def annotations(out, split):
    lines = (out / f'{split}_list_videos.txt').read_text().splitlines()
    return [(name, int(label)) for name, label in (line.split(' ') for line in lines)]


def pixels(out):
    return np.stack(
        [
            read(out / f'videos_{s}' / name)
            for s in ('train', 'val')
            for name, _ in annotations(out, s)
        ]
    )


def clip(motion, seed=0, **settings):
    return motions.sample_clip(np.random.default_rng(seed), motion, **settings)


# The files


def test_a_dataset_has_every_file_it_lists_and_no_other(dataset):
    assert {path.name for path in dataset.iterdir()} == {
        'videos_train', 'videos_val', 'train_list_videos.txt', 'val_list_videos.txt',
        'label_map.txt', 'settings.json',
    }  # fmt: skip
    assert (dataset / 'label_map.txt').read_text().splitlines() == MOTIONS
    for split, count in (('train', 16), ('val', 8)):
        listed = annotations(dataset, split)
        assert sorted(name for name, _ in listed) == sorted(
            path.name for path in (dataset / f'videos_{split}').iterdir()
        )
        assert [label for _, label in listed] == [index % 8 for index in range(count)]
    assert json.loads((dataset / 'settings.json').read_text()) == {
        'format': 'mmsifa-motion', 'version': 1, 'num_train': 16, 'num_val': 8, 'num_frames': 5,
        'size': 64, 'displacement': 3.0, 'seed': 0, 'fps': 24,
    }  # fmt: skip


def test_videos_hold_exactly_what_was_rendered(dataset):
    """A lossy codec would show the motion in single frames."""
    for number, split in enumerate(('train', 'val')):
        for index, (name, label) in enumerate(annotations(dataset, split)):
            path = dataset / f'videos_{split}' / name
            frames = motions.render(clip(MOTIONS[label], [0, number, index], num_frames=5))
            np.testing.assert_array_equal(read(path), frames)
            assert decord.VideoReader(str(path)).get_avg_fps() == 24


def test_mmaction_reads_a_dataset(dataset):
    datasets = importlib.import_module('mmaction.datasets')
    pipeline = [
        dict(type='mmaction.DecordInit'),
        dict(type='mmaction.SampleFrames', clip_len=3, num_clips=1),
        dict(type='mmaction.DecordDecode'),
    ]
    videos = datasets.VideoDataset(
        str(dataset / 'val_list_videos.txt'),
        pipeline,
        data_prefix=dict(video=str(dataset / 'videos_val')),
        test_mode=True,
    )
    assert [videos.get_data_info(index)['label'] for index in range(len(videos))] == list(range(8))
    assert np.stack(videos[7]['imgs']).shape == (3, 64, 64, 3)


def test_the_seed_decides_everything(dataset, tmp_path):
    tool.make_dataset(tmp_path / 'same', SMALL)
    tool.make_dataset(tmp_path / 'other', dataclasses.replace(SMALL, seed=1))
    for name in ('train_list_videos.txt', 'val_list_videos.txt'):
        assert (tmp_path / 'same' / name).read_bytes() == (dataset / name).read_bytes()
    made = pixels(dataset)
    np.testing.assert_array_equal(pixels(tmp_path / 'same'), made)
    assert (pixels(tmp_path / 'other') != made).any(axis=(1, 2, 3, 4)).all()
    assert len(np.unique(made.reshape(len(made), -1), axis=0)) == len(made)


# The motion


@pytest.mark.parametrize(('motion', 'opposite'), OPPOSITES)
def test_a_clip_played_backwards_is_a_clip_of_the_opposite_class(motion, opposite):
    for seed in range(3):
        frames = motions.render(clip(motion, seed, num_frames=12))
        others = motions.render(clip(opposite, seed, num_frames=12))
        np.testing.assert_array_equal(frames[::-1], others)
        # So the frames in no order are the same, but not their order.
        assert sorted(frame.tobytes() for frame in frames) == sorted(f.tobytes() for f in others)
        assert (frames != others).any()


def lone_sprite(motion, displacement, num_frames=2, seed=0, background=0.5):
    """A clip of a sprite of medium size in the frame's centre, over an even background."""
    sampled = clip(motion, seed, displacement=displacement, num_frames=num_frames)
    radius = motions._outer_radius(0.5) / motions._outer_radius(sampled.middle[:1, 2])
    velocity = sampled.velocity[:1]
    if motion in ('clockwise', 'counterclockwise'):
        velocity = velocity / radius  # the sprite now has another size than when it was sampled
    return dataclasses.replace(
        sampled,
        background=np.full_like(sampled.background, background),
        sprites=sampled.sprites[:1],
        middle=np.array([[0.5, 0.5, 0.5, 0.2]]),
        velocity=velocity,
    )


def rim_radii(**options):
    """Mean radius in pixels of a lone sprite's outline at each frame, from the rendered frames."""
    dark, light = (motions.render(lone_sprite(background=shade, **options)) for shade in (0, 1))
    covered = 1 - (light.astype(float) - dark)[..., 0] / 255
    mean_radii = []
    for mask in covered:
        flags = cv2.INTER_LINEAR + cv2.WARP_FILL_OUTLIERS
        polar = cv2.warpPolar(mask, (320, 360), (31.5, 31.5), 32, flags)
        mean_radii.append((polar > 0.5).sum() / 360 / 10)
    return np.array(mean_radii)


@pytest.mark.parametrize('displacement', [2, 4, 6])
@pytest.mark.parametrize(
    ('motion', 'direction'),
    [('left', (0, -1)), ('right', (0, 1)), ('up', (-1, 0)), ('down', (1, 0))],
)
def test_translated_sprites_shift_by_the_displacement(motion, direction, displacement):
    first, second = motions.render(lone_sprite(motion, displacement))
    shift = np.multiply(direction, displacement)
    np.testing.assert_array_equal(second, np.roll(first, shift, axis=(0, 1)))


@pytest.mark.parametrize('displacement', [1.0, 2.5])
@pytest.mark.parametrize(('motion', 'direction'), [('clockwise', 1), ('counterclockwise', -1)])
def test_rims_of_rotated_sprites_move_by_the_displacement(motion, direction, displacement):
    first, second = motions.render(lone_sprite(motion, displacement)).astype(np.float32)

    def difference(degrees):
        turn = cv2.getRotationMatrix2D((31.5, 31.5), -degrees, 1)  # OpenCV's go counterclockwise
        turned = cv2.warpAffine(first, turn, (64, 64), borderMode=cv2.BORDER_REPLICATE)
        return np.abs(turned - second).mean()

    degrees = min(np.arange(-20, 20, 0.25), key=difference)
    rim = rim_radii(motion=motion, displacement=displacement)[0]
    assert np.deg2rad(degrees) * rim == pytest.approx(direction * displacement, rel=0.1)


@pytest.mark.parametrize('displacement', [0.5, 1.0])
@pytest.mark.parametrize(('motion', 'direction'), [('towards', 1), ('away', -1)])
def test_rims_of_zoomed_sprites_move_by_the_displacement(motion, direction, displacement):
    radii = rim_radii(motion=motion, displacement=displacement, num_frames=60)
    steps = np.diff(radii) * direction
    jumps = steps < -10  # from the largest size to the smallest
    assert 1 <= jumps.sum() <= 4
    assert (steps[~jumps] > 0).all()
    assert steps[~jumps].mean() == pytest.approx(displacement, rel=0.15)
    assert radii.max() / radii.min() == pytest.approx(4.8, rel=0.15)


def test_a_sprite_that_leaves_the_frame_enters_on_the_other_side():
    centred = lone_sprite('left', 2.0)
    wrapped = dataclasses.replace(centred, middle=centred.middle + np.array([0.5, 0.25, 0, 0]))
    expected = np.roll(motions.render(centred), (16, 32), axis=(1, 2))
    np.testing.assert_array_equal(motions.render(wrapped), expected)


# A single frame


@pytest.mark.parametrize('motion', MOTIONS)
def test_poses_are_uniform_at_the_first_and_the_last_frame(motion, monkeypatch):
    monkeypatch.setattr(motions, 'draw_texture', lambda rng, size, *_: np.zeros((size, size, 3)))
    clips = [clip(motion, [1, index]) for index in range(400)]
    for frame in (0, 23):
        poses = np.sort(np.concatenate([sampled.poses(frame) for sampled in clips]), axis=0)
        uniform = (np.arange(len(poses)) + 0.5) / len(poses)
        distance = np.abs(poses - uniform[:, None]).max(axis=0)
        assert (distance < 2.2 / np.sqrt(len(poses))).all()  # Kolmogorov-Smirnov, p about 1e-4


def accuracy(inputs, labels, num_train, epochs):
    """Held-out accuracy of a small network that sees inputs of shape (clips, views, C, H, W)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = []
    for channels, width in ((inputs.shape[2], 24), (24, 48), (48, 64)):
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8))
    steps = epochs * (num_train // 32)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(num_train, (32,))
        batch = inputs[index, torch.randint(inputs.shape[1], (32,))].float() / 255
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch), labels[index]).backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        predicted = network(inputs[num_train:, 0].float() / 255).argmax(1)
    return (predicted == labels[num_train:]).float().mean().item()


@pytest.fixture(scope='module')
def moments():
    """First, last and middle frames of clips of 24, (2000, T, 3, 32, 32) each, and the labels."""
    labels = np.arange(2000) % 8
    ends, middles = [], []
    for index, label in enumerate(labels):
        sampled = clip(MOTIONS[label], [2, index], size=32, displacement=1)
        ends.append(
            motions.render(
                dataclasses.replace(sampled, num_frames=2, velocity=23 * sampled.velocity)
            )
        )
        middles.append(motions.render(dataclasses.replace(sampled, num_frames=4)))
    ends, middles = (
        torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3) for frames in (ends, middles)
    )
    return {'first': ends[:, :1], 'last': ends[:, 1:], 'middle': middles}, torch.from_numpy(labels)


NUM_TRAIN = 1600


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['first', 'last'])
def test_a_single_frame_does_not_tell_the_class(moments, moment):
    frames, labels = moments
    reached = accuracy(frames[moment], labels, NUM_TRAIN, epochs=6)
    deviation = np.sqrt(1 / 8 * 7 / 8 / (len(labels) - NUM_TRAIN))
    assert abs(reached - 1 / 8) < 4 * deviation  # from 0.059 to 0.191


@pytest.mark.slow
def test_two_frames_tell_the_class_to_the_same_network(moments):
    frames, labels = moments
    pairs = torch.cat([frames['middle'][:, :-1], frames['middle'][:, 1:]], dim=2)
    reached = accuracy(pairs, labels, NUM_TRAIN, epochs=6)
    assert reached > 0.5


# What goes wrong


def test_an_existing_dataset_is_left_or_replaced_as_asked(tmp_path, capsys):
    out = tmp_path / 'motion'
    options = [str(out), '--num-train', '8', '--num-val', '8', '--num-frames', '2']
    main(['make-motion-dataset', *options])
    assert 'motion: made' in capsys.readouterr().out
    settings = out / 'settings.json'
    made = settings.stat().st_mtime_ns

    main(['make-motion-dataset', *options])
    assert 'already there, made with the same settings' in capsys.readouterr().out
    message = 'other settings: num_frames is 2 there but 3 here; seed is 0 there but 4 here.*--over'
    with pytest.raises(SystemExit, match=message):
        main(['make-motion-dataset', *options[:-1], '3', '--seed', '4'])
    assert settings.stat().st_mtime_ns == made

    main(['make-motion-dataset', *options[:-1], '3', '--overwrite'])
    assert json.loads(settings.read_text())['num_frames'] == 3
    assert len(read(out / 'videos_val' / annotations(out, 'val')[0][0])) == 3
    assert [path.name for path in tmp_path.iterdir()] == ['motion']


@pytest.mark.parametrize('content', [None, '{', '[]', '{"format": "other"}'])
def test_a_folder_of_somebody_else_stays_as_it_is(tmp_path, content):
    (tmp_path / 'thesis.txt').write_text('important')
    if content is not None:
        (tmp_path / 'settings.json').write_text(content)
    before = sorted(tmp_path.iterdir())
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='is no dataset of this tool, so it stays'):
            tool.make_dataset(tmp_path, SMALL, overwrite)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / 'thesis.txt').read_text() == 'important'


@pytest.mark.parametrize('reason', [KeyboardInterrupt, OSError('No space left on device')])
def test_what_breaks_off_leaves_nothing_behind(dataset, tmp_path, monkeypatch, reason):
    out = tmp_path / 'motion'
    tool.make_dataset(out, SMALL)
    rendered = []

    def break_off(sampled):
        if len(rendered) == 20:  # in the second split
            raise reason
        rendered.append(sampled)
        return np.zeros((2, 64, 64, 3), np.uint8)

    monkeypatch.setattr(motions, 'render', break_off)
    for options in ([str(tmp_path / 'new')], [str(out), '--overwrite']):
        rendered.clear()
        with pytest.raises(SystemExit, match=r'interrupted, nothing is left|error: No space left'):
            main(['make-motion-dataset', *options, '--num-train', '16', '--num-val', '8'])
        assert len(rendered) == 20
        assert [path.name for path in tmp_path.iterdir()] == ['motion']
    np.testing.assert_array_equal(pixels(out), pixels(dataset))


def test_a_dataset_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    out = tmp_path / 'motion'
    tool.make_dataset(out, SMALL)
    rename = Path.rename

    def refuse_new(path, target):
        if path.name == 'new':
            raise PermissionError('not allowed')
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', refuse_new)
    with pytest.raises(PermissionError, match='not allowed'):
        tool.make_dataset(out, SMALL, overwrite=True)
    assert len(pixels(out)) == 24
    assert [path.name for path in tmp_path.iterdir()] == ['motion']


def test_videos_that_cannot_be_written_are_errors(tmp_path, monkeypatch):
    frames = motions.render(clip('up', num_frames=3))
    with pytest.raises(RuntimeError, match=r'a.mp4 could not be written: No such file'):
        tool.write_video(tmp_path / 'missing' / 'a.mp4', frames, 24)

    reader = video.VideoReader
    tool.write_video(tmp_path / 'short.mp4', frames[:2], 24)
    monkeypatch.setattr(video, 'VideoReader', lambda _: reader(tmp_path / 'short.mp4'))
    with pytest.raises(RuntimeError, match='does not hold all that was written: is the disk full'):
        tool.write_video(tmp_path / 'a.mp4', frames, 24)

    monkeypatch.setattr(video, 'VideoReader', lambda _: reader(tmp_path / 'missing'))
    with pytest.raises(RuntimeError, match=r'a.mp4 could not be read back \(.*missing'):
        tool.write_video(tmp_path / 'a.mp4', frames, 24)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_train': 7}, 'num_train must be at least 8, a clip for each class, but is 7'),
        ({'num_val': 0}, 'num_val must be at least 8, a clip for each class, but is 0'),
        ({'num_frames': 1}, 'num_frames must be at least 2 to show motion, not 1'),
        ({'size': 14}, 'size must be an even number of pixels, 16 or more, not 14'),
        ({'size': 65}, 'size must be an even number of pixels, 16 or more, not 65'),
        ({'displacement': 0}, 'displacement must be above 0 and at most size / 10 = 6.4 .*not 0'),
        ({'displacement': 6.5}, 'displacement must be above 0 and at most .*not 6.5'),
        ({'displacement': float('nan')}, 'displacement must be above 0 .*not nan'),
        ({'seed': -1}, 'seed must be 0 or more, not -1'),
        ({'fps': 0}, 'fps must be between 1 and 240, not 0'),
        ({'fps': 241}, 'fps must be between 1 and 240, not 241'),
    ],
)
def test_settings_that_make_no_dataset_say_so(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tool.MotionSettings(**options)
    arguments = [f'--{key.replace("_", "-")}={value}' for key, value in options.items()]
    with pytest.raises(SystemExit, match=f'error: {message}'):
        main(['make-motion-dataset', str(tmp_path / 'motion'), *arguments])
    assert not list(tmp_path.iterdir())


def test_an_unknown_motion_lists_the_motions():
    with pytest.raises(
        ValueError, match=r"one of left, right, .*, counterclockwise, not 'sideways'"
    ):
        clip('sideways')
