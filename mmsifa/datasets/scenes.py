"""Drawn scenes: textured sprites that move over a background, and their true motion.

A frame is a torus: what leaves it on one side enters on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

TEXTURE_SIZE = 64
TEXTURE_REACH = 1.1  # half the side of a sprite's texture, in outer radii


@dataclass(frozen=True)
class Scene:
    """A background and sprites with a pose in each frame.

    Positions are in pixels, the frame's upper left corner is (0, 0) and y points down, so a growing
    angle is clockwise. Positions outside the frame are wrapped into it.

    Args:
        background: RGB in 0..1, float32, shape (size, size, 3).
        sprites: RGB in 0..1 and signed distance to the outline in outer radii (positive inside),
            float32, shape (N, 64, 64, 4), or (T, N, 64, 64, 4) if they look different in each
            frame; the last sprite is in front. See :func:`draw_sprite`.
        poses: Centre x, y and outer radius in pixels and angle in radians of each sprite in each
            frame, shape (T, N, 4).
        camera: Displacement (x, y) of the background in pixels in each frame, shape (T, 2).
            Default: None, it stands still.
        light: Factor and summand of the colours in each frame, shape (T, 2). Default: None, no
            change.
        noise: Standard deviation of Gaussian noise, independent for each value of each frame, in
            units of 0..255. Default: 0.
        visible: Share of the sprites' pixels that are drawn, chosen anew in each frame; the
            others show what is behind. Default: 1.
        seed: Seed of ``noise`` and ``visible``. Default: 0.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> poses = np.array([[[16, 16, 8, 0]], [[19, 14, 8, 0]]], float)
        >>> scene = Scene(draw_texture(rng, 32, (2, 4, 8), 0.15), draw_sprite(rng)[0][None], poses)
        >>> scene.render().shape
        (2, 32, 32, 3)
        >>> flow, moving = scene.flow(0)
        >>> flow[16, 16].tolist(), bool(moving[16, 16])
        ([3.0, -2.0], True)
    """

    background: np.ndarray
    sprites: np.ndarray
    poses: np.ndarray
    camera: np.ndarray | None = None
    light: np.ndarray | None = None
    noise: float = 0.0
    visible: float = 1.0
    seed: int = 0

    def render(self) -> np.ndarray:
        """Draw the frames.

        Returns:
            RGB frames, uint8, shape (T, size, size, 3).
        """
        rng = np.random.default_rng(self.seed)
        frames = np.empty((len(self.poses), *self.background.shape), np.uint8)
        for t, (frame, canvas) in enumerate(zip(frames, self._backdrops(), strict=True)):
            shown = None
            if self.visible < 1:
                shown = rng.random((*frame.shape[:2], 1), np.float32) < self.visible
            for sprite, pose in zip(self._sprites(t), self.poses[t], strict=True):
                _draw(canvas, sprite, pose, shown)
            if self.light is not None:
                factor, summand = self.light[t]
                canvas *= np.float32(factor)
                canvas += np.float32(summand)
            canvas *= 255
            if self.noise:
                canvas += np.float32(self.noise) * rng.standard_normal(canvas.shape, np.float32)
            frame[:] = np.rint(np.clip(canvas, 0, 255, out=canvas), out=canvas)
        return frames

    def flow(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """True motion from a frame to the next, of what is in front at each pixel.

        It is not wrapped: what moves out of the frame on the right has a motion to the right.

        Args:
            t: The frame, from 0 to T - 2.

        Returns:
            The motion (dx, dy) in pixels, float32, shape (size, size, 2), and where a sprite is in
            front, bool, shape (size, size).

        Raises:
            ValueError: If there is no such frame with a next one.
        """
        if not 0 <= t < len(self.poses) - 1:
            raise ValueError(
                f'flow goes from frame t to t + 1, so t must be from 0 to {len(self.poses) - 2}, '
                f'the last frame but one, got {t}'
            )
        size = len(self.background)
        flow = np.zeros((size, size, 2), np.float32)
        if self.camera is not None:
            flow[:] = self.camera[t + 1] - self.camera[t]
        moving = np.zeros((size, size), bool)
        poses = zip(self._sprites(t), self.poses[t], self.poses[t + 1], strict=True)
        for sprite, now, then in poses:
            drawn, corner = _place(sprite, now, size)
            inside = drawn[..., 3] > 0
            steps = np.arange(len(inside)) + 0.5
            x, y = np.meshgrid(steps + corner[0] - now[0], steps + corner[1] - now[1])
            scale, turn = then[2] / now[2], then[3] - now[3]
            cos, sin = scale * np.cos(turn), scale * np.sin(turn)
            motion = np.stack([cos * x - sin * y - x, sin * x + cos * y - y], axis=-1)
            motion += then[:2] - now[:2]
            for part, box in _wrapped(corner, len(inside), size):
                flow[box] = np.where(inside[part][..., None], motion[part], flow[box])
                moving[box] |= inside[part]
        return flow, moving

    def _sprites(self, t: int) -> np.ndarray:
        """The sprites in a frame."""
        return self.sprites[t] if self.sprites.ndim == 5 else self.sprites

    def _backdrops(self) -> Iterator[np.ndarray]:
        """The background of each frame."""
        if self.camera is None:
            yield from (self.background.copy() for _ in self.poses)
            return
        size = len(self.background)
        tiles = np.tile(self.background, (2, 2, 1))
        for corner in -np.asarray(self.camera) % size:
            yield cv2.getRectSubPix(tiles, (size, size), tuple(corner + (size - 1) / 2))


def draw_texture(
    rng: np.random.Generator,
    size: int,
    cells: Sequence[int],
    contrast: float,
    periodic: bool = False,
) -> np.ndarray:
    """Draw smooth colour noise of several scales.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.
        cells: Cells of noise along a side, for each scale.
        contrast: Standard deviation of the colours, of 0..1.
        periodic: Whether the texture goes on without a seam from each side to the opposite one.
            Default: False.

    Returns:
        RGB in 0..1, float32, shape (size, size, 3).

    Example:
        >>> draw_texture(np.random.default_rng(0), 16, (2, 4), contrast=0.1).shape
        (16, 16, 3)
    """
    noise = np.zeros((size, size, 3), np.float32)
    for count in cells:
        grid = rng.standard_normal((count, count, 3)).astype(np.float32)
        if periodic:
            across = _periodic_cubic(count, size)
            noise += across @ (across @ grid.reshape(count, -1)).reshape(size, count, 3)
        else:
            noise += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    noise *= contrast / noise.std()
    return np.clip(rng.uniform(0.3, 0.7, 3).astype(np.float32) + noise, 0, 1)


@lru_cache
def _periodic_cubic(count: int, size: int) -> np.ndarray:
    """Matrix that enlarges a periodic signal, shape (size, count)."""
    around = np.arange(-count, 2 * count) % count
    enlarged = cv2.resize(
        np.eye(count, dtype=np.float32)[around], (count, 3 * size), interpolation=cv2.INTER_CUBIC
    )
    return np.ascontiguousarray(enlarged[size : 2 * size])


def draw_sprite(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draw a sprite: a textured blob with a random smooth outline.

    Args:
        rng: Source of randomness.

    Returns:
        A sprite for :class:`Scene`, float32, shape (64, 64, 4), and its outline's mean radius in
        outer radii.

    Example:
        >>> sprite, mean_radius = draw_sprite(np.random.default_rng(0))
        >>> sprite.shape, 0.5 < mean_radius < 1
        ((64, 64, 4), True)
    """
    turn = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    phase = rng.uniform(0, 2 * np.pi, (5, 1))
    outline = rng.standard_normal(5) @ np.cos(np.arange(1, 6)[:, None] * turn + phase)
    outline = 1 - rng.uniform(0.3, 0.5) * (outline - outline.min()) / np.ptp(outline)
    angle, radius = _polar_grid()
    inside = np.interp(angle, turn, outline, period=2 * np.pi) - radius
    colour = draw_texture(rng, TEXTURE_SIZE, (3, 6, 12), 0.3)
    return np.dstack([colour, inside]).astype(np.float32), float(outline.mean())


@lru_cache
def texture_grid() -> tuple[np.ndarray, np.ndarray]:
    """Place of each pixel of a sprite's texture.

    Returns:
        x and y in outer radii from the sprite's centre, each of shape (64, 64).

    Example:
        >>> x, y = texture_grid()
        >>> x[0, 0].item(), y[0, 0].item()
        (-1.1, -1.1)
    """
    axis = np.linspace(-TEXTURE_REACH, TEXTURE_REACH, TEXTURE_SIZE)
    x, y = np.meshgrid(axis, axis)
    return x, y


@lru_cache
def _polar_grid() -> tuple[np.ndarray, np.ndarray]:
    x, y = texture_grid()
    return np.arctan2(y, x), np.hypot(x, y)


def _draw(
    canvas: np.ndarray, sprite: np.ndarray, pose: np.ndarray, shown: np.ndarray | None
) -> None:
    """Draw a sprite onto the canvas, where ``shown``, wrapped around the frame's sides."""
    size = len(canvas)
    drawn, corner = _place(sprite, pose, size)
    alpha = np.clip(drawn[..., 3] * pose[2] + 0.5, 0, 1)
    colour, cover = cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB), cv2.merge([alpha] * 3)
    for part, box in _wrapped(corner, len(drawn), size):
        behind = canvas[box]
        change = cover[part] * (colour[part] - behind)
        if shown is not None:
            change *= shown[box]
        canvas[box] = behind + change


def _place(sprite: np.ndarray, pose: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A sprite in its pose, in a square box, and the corner (x, y) of the box in the frame."""
    radius, angle = pose[2:]
    centre = (TEXTURE_SIZE - 1) / 2
    scale = radius * TEXTURE_REACH / centre
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = min(size, 2 * int(radius) + 4)
    exact_corner = pose[:2] - side / 2
    corner = np.rint(exact_corner).astype(int)
    shift = (side - 1) / 2 + exact_corner - corner - turn.sum(axis=1) * centre
    affine = np.column_stack([turn, shift])
    return cv2.warpAffine(sprite, affine, (side, side), borderValue=(0, 0, 0, -1)), corner


def _wrapped(corner: np.ndarray, side: int, size: int) -> Iterator[tuple]:
    """Parts of a box, and the places of the frame where they fall, both as pairs of slices."""
    (x_parts, y_parts) = ([*_wrapped_axis(start, side, size)] for start in corner % size)
    for y_part, y_place in y_parts:
        for x_part, x_place in x_parts:
            yield (y_part, x_part), (y_place, x_place)


def _wrapped_axis(start: int, side: int, size: int) -> Iterator[tuple[slice, slice]]:
    first = min(side, size - start)
    yield slice(0, first), slice(start, start + first)
    if first < side:
        yield slice(first, side), slice(0, side - first)
