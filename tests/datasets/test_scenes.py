"""Drawn scenes: the flow is the motion of what the frames show."""

import dataclasses

import numpy as np
import pytest
from scene_motion import motion_error, smoothed

from mmsifa.datasets import Scene, draw_sprite, draw_texture

SIZE = 48


def path(start, step, num_frames=3):
    """Poses of a sprite that changes uniformly, shape (T, 1, 4)."""
    return (np.array(start, float) + np.outer(np.arange(num_frames), step))[:, None]


def lone(poses, **options):
    """A sprite over a periodic background."""
    rng = np.random.default_rng(0)
    background = draw_texture(rng, SIZE, (2, 4), 0.15, periodic=True)
    return Scene(background, smoothed([draw_sprite(rng)[0]]), poses, **options)


STILL = (0, 0, 0, 0)
CAMERA = np.outer(np.arange(3), (-1.3, 2.6))


@pytest.mark.parametrize(
    ('step', 'camera', 'tolerance'),
    [
        pytest.param((3, -5, 0, 0), None, 0, id='whole-pixels'),
        pytest.param((2.3, -1.6, 0, 0), None, 4, id='sub-pixel'),
        pytest.param(STILL, CAMERA, 4, id='camera'),
        pytest.param((4, 0, 0, 0), CAMERA, 4, id='sprite-and-camera'),
        pytest.param((0, 0, 0, 0.3), None, 4, id='rotation'),
        pytest.param((0, 0, 2.5, 0), None, 4, id='growth'),
        pytest.param((-2.2, 1.7, -1.5, -0.25), CAMERA, 4, id='all-at-once'),
    ],
)
def test_the_flow_leads_to_the_same_thing_in_the_next_frame(step, camera, tolerance):
    scene = lone(path((40, 20, 14, 0.4), step), camera=camera)  # it crosses the frame's side
    assert motion_error(scene) <= tolerance
    for wrong in (0, -1):
        assert motion_error(scene, flow=wrong * scene.flow(0)[0]) > 4 * tolerance + 5


def test_the_flow_of_a_turn_about_the_centre():
    flow, moving = lone(path((24.5, 24.5, 12, 0), (0, 0, 0, np.pi / 2))).flow(0)
    assert moving[24, 28]
    np.testing.assert_allclose(flow[24, 28], (-4, 4), atol=1e-5)  # from right of it to below it
    assert not flow[~moving].any()


def test_the_flow_is_that_of_the_sprite_in_front():
    sprite = draw_sprite(np.random.default_rng(0))[0]
    poses = np.concatenate(
        [path((20, 20, 10, 0), (1, 0, 0, 0)), path((24, 20, 10, 0), (0, 2, 0, 0))], axis=1
    )
    scene = dataclasses.replace(lone(poses), sprites=np.stack([sprite, sprite]))
    flow, moving = scene.flow(0)
    assert flow[20, 22].tolist() == [0, 2]
    assert flow[20, 13].tolist() == [1, 0]
    assert flow[40, 40].tolist() == [0, 0]
    assert (moving == flow.any(axis=-1)).all()


def test_the_flow_is_not_wrapped():
    scene = lone(path((SIZE - 1, 20, 8, 0), (30, 0, 0, 0)))
    flow, moving = scene.flow(0)
    assert moving[20, 1]  # it reaches in on the other side
    assert moving[20, SIZE - 2]
    np.testing.assert_array_equal(flow[moving], [[30, 0]] * moving.sum())
    assert flow.dtype == np.float32


@pytest.mark.parametrize('t', [-1, 2, 3])
def test_the_last_frame_has_no_flow(t):
    with pytest.raises(ValueError, match=f't must be from 0 to 1, the last frame but one, got {t}'):
        lone(path((20, 20, 8, 0), STILL)).flow(t)


def test_what_moves_alike_is_the_rolled_frame():
    camera = np.array([(0, 0), (5, -3), (-60, 100)], float)
    poses = path((20, 20, 8, 0), STILL)
    poses[:, 0, :2] += camera
    first, second, third = lone(poses, camera=camera).render()
    np.testing.assert_array_equal(second, np.roll(first, (-3, 5), axis=(0, 1)))
    np.testing.assert_array_equal(third, np.roll(first, (100, -60), axis=(0, 1)))


@pytest.mark.parametrize('periodic', [True, False])
def test_a_periodic_texture_has_no_seam(periodic):
    steps = []
    for seed in range(20):
        texture = draw_texture(np.random.default_rng(seed), 64, (2, 4, 8), 0.1, periodic)
        assert texture.std(axis=(0, 1)).mean() == pytest.approx(0.1, rel=0.3)
        jumps = np.abs(np.diff(texture, axis=1, append=texture[:, :1])).mean(axis=(0, 2))
        steps.append(jumps[-1] / jumps.mean())
    assert (np.mean(steps) < 1.5) == periodic


def test_light_changes_the_colours_of_its_frame():
    light = np.array([(1, 0), (0.5, 0.1), (1, -2)], float)
    scene = lone(path((20, 20, 8, 0), STILL), light=light)
    first, second, dark = scene.render().astype(float)
    np.testing.assert_allclose(second, first * 0.5 + 25.5, atol=0.8)
    assert not dark.any()
    np.testing.assert_array_equal(scene.flow(0)[0], 0)


def test_noise_is_independent_and_as_strong_as_told():
    scene = lone(path((20, 20, 8, 0), STILL, num_frames=6))
    scene = dataclasses.replace(scene, background=np.full_like(scene.background, 0.5))
    noisy = dataclasses.replace(scene, noise=20.0)
    noise = (noisy.render().astype(float) - scene.render())[:, 32:].reshape(6, -1)
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert abs(noise.mean()) < 0.5
    assert np.abs(np.corrcoef(noise) - np.eye(6)).max() < 0.1
    np.testing.assert_array_equal(noisy.render(), noisy.render())
    assert (dataclasses.replace(noisy, seed=1).render() != noisy.render()).mean() > 0.9


def test_as_many_pixels_of_a_sprite_are_visible_as_told():
    poses = path((20, 20, 16, 0), STILL, num_frames=6)
    scene = lone(poses)
    scene = dataclasses.replace(
        scene,
        background=np.zeros_like(scene.background),
        sprites=np.concatenate([scene.sprites[..., :3] * 0 + 1, scene.sprites[..., 3:]], axis=-1),
    )
    full = (scene.render() == 255).all(axis=-1)
    partial = dataclasses.replace(scene, visible=0.3).render()
    assert set(np.unique(partial[full])) == {0, 255}
    assert not partial[(scene.render() == 0).all(axis=-1)].any()
    drawn = partial[..., 0][full].reshape(6, -1) > 0
    assert drawn.mean() == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.corrcoef(drawn) - np.eye(6)).max() < 0.2
    np.testing.assert_array_equal(scene.flow(0)[1], scene.flow(4)[1])
