"""Clips whose classes differ in nothing but the direction of motion.

The class is how textured sprites move over a still background: left, right, up, down, towards,
away, clockwise or counterclockwise. A sprite's pose (x, y, size, angle) lives on a torus: what
leaves the frame on one side enters on the other, and a sprite that has grown to the largest size
goes on from the smallest. A clip starts anywhere on the torus with equal chance and moves
uniformly. So a single frame, whichever it is, has the same distribution in every class, and a clip
played backwards is a clip of the opposite class.

A zoom runs through all sizes in about 0.3 * size / displacement frames (6 by default). Sampled
at half of that or further apart, frames no longer tell towards from away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmsifa.datasets.scenes import Scene, draw_sprite, draw_texture

# Class -> axis of the pose (x, y, size, angle) and direction along it. The image's y points down,
# which makes a growing angle clockwise.
MOTIONS = {
    'left': (0, -1),
    'right': (0, 1),
    'up': (1, -1),
    'down': (1, 1),
    'towards': (2, 1),
    'away': (2, -1),
    'clockwise': (3, 1),
    'counterclockwise': (3, -1),
}
SMALLEST, LARGEST = 0.1, 0.48  # a sprite's outer radius, as a share of the frame's side
MAX_SPRITES = 3


@dataclass(frozen=True)
class MotionClip:
    """A scene in motion, ready to be rendered.

    Attributes:
        background: RGB in 0..1, shape (size, size, 3).
        sprites: RGB in 0..1 and signed distance to the outline in outer radii (positive inside),
            shape (N, 64, 64, 4); the last sprite is in front.
        middle: Poses (x, y, size, angle) in the middle of the clip, each in 0..1, shape (N, 4).
        velocity: Change of the poses from frame to frame, shape (N, 4).
        num_frames: Frames in the clip.
    """

    background: np.ndarray
    sprites: np.ndarray
    middle: np.ndarray
    velocity: np.ndarray
    num_frames: int

    def poses(self, frame: int) -> np.ndarray:
        """Poses (x, y, size, angle) of the sprites at a frame, each in 0..1, shape (N, 4)."""
        return (self.middle + self.velocity * (frame - (self.num_frames - 1) / 2)) % 1.0


def sample_clip(
    rng: np.random.Generator,
    motion: str,
    num_frames: int = 20,
    size: int = 64,
    displacement: float = 3.0,
) -> MotionClip:
    """Draw a random clip of one class.

    The same state of the generator gives the same appearance and the same poses in the middle of
    the clip, whatever the class.

    Args:
        rng: Source of randomness.
        motion: A key of ``MOTIONS``.
        num_frames: Frames in the clip. Default: 20.
        size: Height and width of the frames in pixels. Default: 64.
        displacement: Mean displacement of the rim of a sprite from frame to frame in pixels; for
            a zoom the mean over all sizes, since larger sprites move faster. Default: 3.

    Returns:
        The clip, for :func:`render`.

    Raises:
        ValueError: If there is no such motion.

    Example:
        >>> clip = sample_clip(np.random.default_rng(0), 'left', num_frames=8, displacement=3)
        >>> (clip.velocity[0] * 64).tolist()
        [-3.0, 0.0, 0.0, 0.0]
        >>> render(clip).shape
        (8, 64, 64, 3)
    """
    if motion not in MOTIONS:
        raise ValueError(f'motion must be one of {", ".join(MOTIONS)}, not {motion!r}')
    background = draw_texture(rng, size, (2, 4, 8), 0.15)
    drawn = [draw_sprite(rng) for _ in range(rng.integers(1, MAX_SPRITES + 1))]
    middle = rng.random((len(drawn), 4))

    rim = size * np.array([mean_radius for _, mean_radius in drawn])
    axis, direction = MOTIONS[motion]
    if axis < 2:
        speed = np.full(len(rim), displacement / size)
    elif axis == 2:
        speed = displacement / (rim * (LARGEST - SMALLEST))
    else:
        speed = displacement / (2 * np.pi * rim * _outer_radius(middle[:, 2]))
    velocity = np.zeros_like(middle)
    velocity[:, axis] = direction * speed
    sprites = np.stack([sprite for sprite, _ in drawn])
    return MotionClip(background, sprites, middle, velocity, num_frames)


def _outer_radius(pose_size: np.ndarray) -> np.ndarray:
    """Outer radius as a share of the frame's side; its logarithm is linear in the pose's size."""
    return SMALLEST * (LARGEST / SMALLEST) ** pose_size


def render(clip: MotionClip) -> np.ndarray:
    """Draw a clip.

    Args:
        clip: The clip, from :func:`sample_clip`.

    Returns:
        RGB frames, uint8, shape (num_frames, size, size, 3).

    Example:
        >>> render(sample_clip(np.random.default_rng(0), 'up', num_frames=2)).shape
        (2, 64, 64, 3)
    """
    size = len(clip.background)
    poses = [
        [
            (size * x, size * y, size * _outer_radius(s), 2 * np.pi * angle)
            for x, y, s, angle in pose
        ]
        for pose in map(clip.poses, range(clip.num_frames))
    ]
    return Scene(clip.background, clip.sprites, np.array(poses)).render()
