"""Clips drawn on the fly: what their classes are, and what does not tell them."""

import dataclasses

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS
from scene_motion import motion_error, smoothed
from torch.utils.data import DataLoader

from study import SyntheticClips, sample_scene
from study.synthetic import GLYPHS, TASKS, _glyph

NUISANCES = dict(camera=True, nonrigid=True, appearance_change=True)


def scene(task='direction', label=0, displacement=4, seed=0, **options):
    return sample_scene(np.random.default_rng(seed), task, label, displacement, **options)


# The dataset


@pytest.mark.parametrize('task', TASKS)
def test_mmaction_formats_and_packs_the_clips(task):
    pipeline = [
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs', meta_keys=('img_shape', 'displacement', 'sample_idx')),
    ]
    clips = DATASETS.build(
        dict(
            type='SyntheticClips',
            task=task,
            num_clips=50,
            num_frames=5,
            size=48,
            displacements=(1, 3),
            pipeline=pipeline,
        )
    )
    packed = clips[7]
    assert packed['inputs'].shape == (1, 3, 5, 48, 48)
    assert packed['inputs'].dtype == torch.uint8
    sample = packed['data_samples']
    assert sample.gt_label.tolist() == [3]
    asked = dict(img_shape=(48, 48), displacement=3.0, sample_idx=7)
    assert sample.metainfo == asked | dict(num_clips=1, clip_len=5)
    frames = clips.scene(7).render()
    np.testing.assert_array_equal(packed['inputs'][0], frames.transpose(3, 0, 1, 2))


def test_labels_and_displacements_are_balanced():
    clips = SyntheticClips('direction', num_clips=96)
    assert len(clips) == 96
    pairs = [(i['label'], i['displacement']) for i in map(clips.get_data_info, range(96))]
    assert len({*pairs[:48]}) == 48
    assert pairs[:48] == pairs[48:]
    assert {pair[1] for pair in pairs} == {0, 1, 2, 4, 8, 16}


def test_seed_stream_and_index_decide_a_sample():
    def clip(idx=3, num_clips=8, **options):
        return np.stack(SyntheticClips('direction', num_clips, **options)[idx]['imgs'])

    np.random.seed(0)  # noqa: NPY002
    expected = clip()
    np.testing.assert_array_equal(clip(num_clips=20000), expected)
    others = [clip(seed=1), clip(stream=1), clip(idx=51, num_clips=60)]  # 51: the same class
    for other in others:
        assert (other != expected).mean() > 0.9


def test_samples_are_the_same_in_every_process():
    pipeline = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
    clips = SyntheticClips('direction', 6, pipeline=pipeline, noise=9.0, visible=0.5, **NUISANCES)
    loader = DataLoader(clips, batch_size=None, num_workers=2)
    for idx, item in enumerate(loader):
        assert torch.equal(item['inputs'], clips[idx]['inputs'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(task='speed'), r"task must be one of \('direction', .*, got 'speed'"),
        (dict(num_clips=0), 'num_clips must be 1 or more, got 0'),
        (dict(num_frames=0), 'num_frames must be 1 or more, got 0'),
        (dict(size=8), 'size must be 16 or more, got 8'),
        (dict(seed=-1), 'seed must be 0 or more, got -1'),
        (dict(stream=-1), 'stream must be 0 or more, got -1'),
        (dict(displacements=()), r'one or more values from 0 to below .* got \(\)'),
        (dict(displacements=(1, 32)), r'from 0 to below size / 2 = 32 pixels .* got \(1, 32\)'),
        (dict(noise=-1), 'noise must be 0 or more, in units of 0..255, got -1'),
        (dict(plain=2), 'plain must be a share from 0 to 1, got 2'),
        (dict(visible=0), 'visible must be a share above 0 and at most 1, got 0'),
    ],
)
def test_what_cannot_be_drawn_is_an_error_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticClips(**(dict(task='direction', num_clips=8) | options))


def test_a_share_of_the_backgrounds_is_plain():
    clips, drawn = (SyntheticClips('appearance', 200, plain=plain) for plain in (0.25, 0.0))
    pairs = [(clips.scene(idx), drawn.scene(idx)) for idx in range(200)]
    plain = [(scene.background == 0.5).all() for scene, _ in pairs]
    assert sum(plain) == pytest.approx(50, abs=20)
    for is_plain, (scene, other) in zip(plain, pairs, strict=True):
        assert is_plain or (scene.background == other.background).all()
        np.testing.assert_array_equal(scene.poses, other.poses)


# Directions


@pytest.mark.parametrize('label', range(8))
def test_a_label_is_a_direction(label):
    flow, moving = scene(label=label, displacement=8, seed=label).flow(2)
    angle = label * np.pi / 4
    expected = 8 * np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(flow[moving], np.tile(expected, (moving.sum(), 1)), atol=1e-5)
    assert not flow[~moving].any()


@pytest.mark.parametrize('options', [{}, NUISANCES], ids=['plain', 'nuisances'])
def test_classes_share_the_middle_frame(options):
    """So only how frames follow each other tells the class, whatever else varies."""
    clips = [scene(label=label, num_frames=7, **options).render() for label in range(8)]
    for label in range(1, 8):
        np.testing.assert_array_equal(clips[label][3], clips[0][3])
        assert (clips[label] != clips[0]).any(axis=(1, 2, 3))[[0, 1, 2, 4, 5, 6]].all()


@pytest.mark.parametrize('options', [{}, NUISANCES], ids=['plain', 'nuisances'])
def test_classes_are_equal_without_displacement(options):
    expected = scene(label=0, displacement=0, noise=5.0, **options).render()
    for label in range(1, 8):
        clip = scene(label=label, displacement=0, noise=5.0, **options).render()
        np.testing.assert_array_equal(clip, expected)


@pytest.mark.parametrize('label', [0, 3])
def test_places_are_uniform_in_the_first_and_the_last_frame(label):
    scenes = [scene(label=label, displacement=16, seed=[label, index]) for index in range(300)]
    for frame in (0, -1):
        places = np.concatenate([s.poses[frame, :, :2] for s in scenes]) % 64 / 64
        places = np.sort(places, axis=0)
        uniform = (np.arange(len(places)) + 0.5) / len(places)
        distance = np.abs(places - uniform[:, None]).max(axis=0)
        assert (distance < 2.2 / np.sqrt(len(places))).all()  # Kolmogorov-Smirnov, p about 1e-4


def test_the_camera_moves_by_up_to_the_displacement_whatever_the_class():
    speeds, headings = [], []
    for seed in range(200):
        drawn = scene(label=2, seed=seed, camera=True)
        steps = np.diff(drawn.camera, axis=0)
        np.testing.assert_allclose(steps, np.tile(steps[0], (7, 1)), atol=1e-9)
        np.testing.assert_array_equal(drawn.camera, scene(label=5, seed=seed, camera=True).camera)
        speeds.append(np.hypot(*steps[0]))
        headings.append(np.arctan2(*steps[0]))
    assert 3.8 < max(speeds) <= 4
    assert np.mean(speeds) == pytest.approx(2, abs=0.3)
    assert abs(np.exp(1j * np.array(headings)).mean()) < 0.2


def test_each_nuisance_changes_only_its_own():
    plain = scene()
    flow, moving = plain.flow(0)
    camera = scene(camera=True)
    np.testing.assert_array_equal(camera.flow(0)[0][moving], flow[moving])
    np.testing.assert_array_equal(camera.flow(0)[1], moving)
    assert camera.flow(0)[0][~moving].all()
    light = scene(appearance_change=True)
    np.testing.assert_array_equal(light.flow(0)[0], flow)
    ratio = light.render().mean(axis=(1, 2, 3)) / plain.render().mean(axis=(1, 2, 3))
    assert 0.02 < np.ptp(ratio) < 0.6
    nonrigid = scene(nonrigid=True)
    np.testing.assert_array_equal(nonrigid.sprites[::2], plain.sprites)
    np.testing.assert_allclose(nonrigid.poses[:, ::2, :2], plain.poses[..., :2])
    assert (np.ptp(nonrigid.poses[:, ::2, 2], axis=0) > 0.5).all()


def test_the_flow_of_a_limb_is_its_own():
    rng = np.random.default_rng(5)
    scene = sample_scene(rng, 'direction', 1, 3, num_frames=4, camera=True, nonrigid=True)
    body, limb = scene.poses[:, 0], scene.poses[:, 1]
    scene = dataclasses.replace(
        scene, sprites=smoothed(scene.sprites[:2]), poses=scene.poses[:, :2]
    )
    reach = np.linalg.norm(limb[:, :2] - body[:, :2], axis=1)
    np.testing.assert_allclose(reach, body[:, 2])  # it stays at the body's rim
    np.testing.assert_allclose(limb[:, 2], body[:, 2] / 2)
    assert np.ptp(limb[:, 3]) > 0.05
    assert np.ptp(body[:, 2]) > 0.05
    for t in (0, 1):
        assert motion_error(scene, t, share=0.8) < 4  # the others are at the joint
        flow, _ = scene.flow(t)
        x, y = (limb[t, :2] % 64).astype(int)
        np.testing.assert_allclose(flow[y, x], (limb[t + 1] - limb[t])[:2], atol=0.7)


# Appearance


def test_glyphs_are_balanced_and_equally_far_apart():
    cells = np.array([[int(bit) for bit in f'{glyph:016b}'] for glyph in GLYPHS])
    distances = (cells[:, None] != cells).sum(axis=-1)
    np.testing.assert_array_equal(distances, 8 - 8 * np.eye(8))
    assert (cells.sum(axis=1) == 8).all()
    grids = cells.reshape(8, 4, 4)
    for axis in (1, 2):
        assert (np.diff(grids, axis=axis) != 0).sum(axis=(1, 2)).tolist() == [6] * 8


def test_a_glyph_is_drawn_in_its_cells_at_its_width():
    drawn = scene('appearance', label=3, displacement=0)
    poses = drawn.poses.copy()
    poses[..., :2] = 32
    drawn = dataclasses.replace(drawn, poses=poses)
    frame, (_, moving) = drawn.render()[0].astype(float), drawn.flow(0)
    rows, columns = np.nonzero(moving)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 43, 20, 43)
    assert moving.sum() == 24 * 24
    cells = frame[23:44:6, 23:44:6].reshape(16, 3)
    light = np.array([bit == '1' for bit in f'{GLYPHS[3]:016b}'])
    assert np.ptp(cells[light], axis=0).max() <= 1
    assert np.ptp(cells[~light], axis=0).max() <= 1
    contrast = abs(cells[light][0] - cells[~light][0])
    assert contrast == pytest.approx(0.5 * 255, abs=2)


def test_colours_do_not_tell_the_glyph():
    means = [
        _glyph(np.random.default_rng(0), cells)[12:52, 12:52, :3].mean(axis=(0, 1))
        for cells in GLYPHS
    ]
    assert np.ptp(means, axis=0).max() < 0.02
    signs = [np.sign(np.diff(_glyph(np.random.default_rng(seed), GLYPHS[0])[16, (16, 28), 0]))
             for seed in range(100)]  # fmt: skip
    assert abs(np.mean(signs)) < 0.4


def test_glyphs_move_alike_whatever_the_class():
    scenes = [scene('appearance', label=label, displacement=8) for label in range(8)]
    for other in scenes[1:]:
        np.testing.assert_array_equal(other.poses, scenes[0].poses)
        np.testing.assert_array_equal(other.background, scenes[0].background)
    flow, moving = scenes[0].flow(0)
    np.testing.assert_allclose(np.linalg.norm(flow[moving], axis=1), 8, rtol=1e-5)
    headings = [
        np.arctan2(*np.diff(scene('appearance', seed=seed).poses[:2, 0, :2], axis=0)[0])
        for seed in range(200)
    ]
    assert abs(np.exp(1j * np.array(headings)).mean()) < 0.2


def test_noise_and_visible_reach_the_frames():
    clean = SyntheticClips('appearance', 8)
    noisy = SyntheticClips('appearance', 8, noise=10.0)
    sparse = SyntheticClips('appearance', 8, visible=0.25)
    frames = [np.stack(clips[5]['imgs']).astype(float) for clips in (clean, noisy, sparse)]
    middle = (frames[0] > 60) & (frames[0] < 195)  # the noise does not leave 0..255
    assert (frames[1] - frames[0])[middle].std() == pytest.approx(10, rel=0.05)
    moving = clean.scene(5).flow(0)[1]
    same = (frames[2][0] == frames[0][0]).all(axis=-1)
    assert same[~moving].mean() > 0.97  # but for the rim
    assert same[moving].mean() == pytest.approx(0.25, abs=0.08)


# Parts


def cells_seen(label, seed):
    """Whether the cell that a frame shows is light, and its row and column, for each frame."""
    drawn = scene('parts', label=label, seed=seed, displacement=0, num_frames=4)
    poses = drawn.poses.copy()
    poses[..., :2] = 32
    frames = dataclasses.replace(drawn, poses=poses).render().astype(float).mean(axis=-1)
    cells = frames[:, [[26], [38]], [26, 38]].reshape(4, 4)
    grey = np.median(cells)
    seen = abs(cells - grey).argmax(axis=1)
    assert (np.sort(abs(cells - grey), axis=1)[:, :3] <= 1).all()  # one cell is not grey
    return [cells[t, n] > grey for t, n in enumerate(seen)], [divmod(n, 2) for n in seen.tolist()]


@pytest.mark.parametrize('label', range(8))
def test_frames_show_the_cells_of_a_pattern_or_of_its_inverse_clockwise(label):
    pattern = [bit == '1' for bit in f'{label:04b}']
    drawn = []
    for seed in range(60):
        light, places = cells_seen(label, seed)
        assert places == [(0, 0), (0, 1), (1, 1), (1, 0)]
        assert light in (pattern, [not bit for bit in pattern])
        drawn.append(light[0] == pattern[0])
    assert sum(drawn) == pytest.approx(30, abs=15)  # so that no frame alone tells the class


def test_parts_move_as_one_and_begin_anew_after_four_frames():
    drawn = scene('parts', label=5, displacement=4, num_frames=6, nonrigid=True)
    assert drawn.sprites.shape[:2] == (6, 2)  # the pattern, and a limb
    for t, again in ((0, 4), (1, 5)):
        np.testing.assert_array_equal(drawn.sprites[t], drawn.sprites[again])
    assert (drawn.sprites[0] != drawn.sprites[1]).any()
    flow, moving = scene('parts', label=5, displacement=4).flow(2)
    np.testing.assert_allclose(np.hypot(*flow[moving].T), 4, atol=1e-5)
