"""Clips drawn on the fly, whose class only several frames together tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from mmaction.registry import DATASETS
from mmengine.dataset import BaseDataset

from mmsifa.datasets.scenes import Scene, draw_sprite, draw_texture, texture_grid

TASKS = ('direction', 'appearance', 'parts')
NUM_CLASSES = 8
# 4 x 4 cells, row by row from the highest bit: as many light as dark ones, any two glyphs differ in
# half of the cells, and each has 6 edges between cells along either axis.
GLYPHS = (0x99C3, 0xDE84, 0xB8B8, 0xCB19, 0xE48B, 0x82B7, 0xA3CC, 0x8C5E)
GLYPH_WIDTH = 0.375  # as a share of the frame's side: 24 of 64 pixels
GLYPH_CONTRAST = 0.5  # between light and dark cells in each of R, G and B, of 0..1
SMALLEST, LARGEST = 0.14, 0.26  # a sprite's outer radius, as a share of the frame's side
MAX_SPRITES = 3


@DATASETS.register_module()
class SyntheticClips(BaseDataset):
    """Clips drawn on the fly, with a known displacement and optical flow.

    A sample depends on the arguments, ``seed``, ``stream`` and its index alone, so a training set
    of any size never repeats itself, takes no disk, and is the same in every process. Displacements
    and labels take turns: ``len(displacements) * 8`` samples in a row have each pair once.

    ``task='direction'``: 1 to 3 textured sprites move alike over a background, and the label is
    where to: label i is the direction ``i * 45`` degrees clockwise from right. They start anywhere
    on the torus with equal chance, so a single frame has the same distribution in every class, and
    at displacement 0 nothing tells the class.

    ``task='appearance'``: one of 8 patterns of light and dark cells moves in a random direction,
    and the label is which. Its colour is random, and so is which cells are the light ones, and
    half of them are, so the mean colour tells nothing. With enough ``noise`` and few ``visible``
    pixels, a single frame does not show it.

    ``task='parts'``: one of 8 patterns of 2 x 2 light and dark cells moves, as in ``'appearance'``,
    but a frame shows one cell of it, the next frame the next one clockwise, and so on. Either a
    pattern or its inverse is drawn, with equal chance, so a single frame has the same distribution
    in every class: only cells of several frames together tell it.

    The items are dicts for MMAction2's ``FormatShape`` with ``input_format='NCTHW'`` and
    ``PackActionInputs``: ``imgs`` (list of uint8 RGB frames of shape (size, size, 3)), ``label``,
    ``modality``, ``num_clips``, ``clip_len``, ``img_shape``, ``displacement``, ``sample_idx``.

    Args:
        task: ``'direction'``, ``'appearance'`` or ``'parts'``.
        num_clips: Number of samples.
        num_frames: Frames in a clip. Default: 8.
        size: Height and width of the frames in pixels. Default: 64.
        displacements: Displacements of the sprites or the pattern in pixels per frame, one for each
            clip. Default: (0, 1, 2, 4, 8, 16).
        camera: Whether the background moves in a random direction, uniformly, by up to the
            displacement. Default: False.
        nonrigid: Whether sprites change their size and swing a limb. Default: False.
        appearance_change: Whether brightness and contrast vary from frame to frame.
            Default: False.
        noise: Standard deviation of Gaussian noise, independent for each value of each frame, in
            units of 0..255. Default: 0.
        visible: Share of the pixels of sprites that are drawn, chosen anew in each frame; the
            others show the background. Default: 1.
        plain: Share of the samples whose background is plain grey. Default: 0.
        seed: Seed of everything random. Default: 0.
        stream: Number of the set of samples: sets of other numbers share no sample, such as 0 to
            train and 1 to validate. Default: 0.
        pipeline: Transforms, as in MMAction2. Default: (), none.
        test_mode: As in MMEngine's ``BaseDataset``. Default: False.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> clips = SyntheticClips('direction', num_clips=96, displacements=(0, 2))
        >>> item = clips[1]
        >>> len(item['imgs']), item['imgs'][0].shape, item['label'], item['displacement']
        (8, (64, 64, 3), 0, 2.0)
        >>> flow, moving = clips.scene(1).flow(0)
        >>> flow[moving][0].tolist()
        [2.0, 0.0]
    """

    def __init__(
        self,
        task: str,
        num_clips: int,
        num_frames: int = 8,
        size: int = 64,
        displacements: Sequence[float] = (0, 1, 2, 4, 8, 16),
        camera: bool = False,
        nonrigid: bool = False,
        appearance_change: bool = False,
        noise: float = 0.0,
        visible: float = 1.0,
        plain: float = 0.0,
        seed: int = 0,
        stream: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f'task must be one of {TASKS}, got {task!r}')
        for name, value, least in (
            ('num_clips', num_clips, 1),
            ('num_frames', num_frames, 1),
            ('size', size, 16),
            ('seed', seed, 0),
            ('stream', stream, 0),
        ):
            if value < least:
                raise ValueError(f'{name} must be {least} or more, got {value}')
        if not displacements or not all(0 <= pixels < size / 2 for pixels in displacements):
            raise ValueError(
                f'displacements must be one or more values from 0 to below size / 2 = {size / 2:g} '
                f'pixels (on a torus, faster motion looks reversed), got {displacements!r}'
            )
        if not noise >= 0:
            raise ValueError(f'noise must be 0 or more, in units of 0..255, got {noise}')
        if not 0 < visible <= 1:
            raise ValueError(f'visible must be a share above 0 and at most 1, got {visible}')
        if not 0 <= plain <= 1:
            raise ValueError(f'plain must be a share from 0 to 1, got {plain}')
        self.num_clips = num_clips
        self.displacements = tuple(map(float, displacements))
        self._sample = partial(
            sample_scene,
            task=task,
            num_frames=num_frames,
            size=size,
            camera=camera,
            nonrigid=nonrigid,
            appearance_change=appearance_change,
            noise=noise,
            visible=visible,
            plain=plain,
        )
        self.seed = seed
        self.stream = stream
        super().__init__(pipeline=list(pipeline), test_mode=test_mode)

    def load_data_list(self) -> list[dict]:
        """List the samples.

        Returns:
            A dict of ``clip_idx``, ``label`` and ``displacement`` for each sample.
        """
        count = len(self.displacements)
        return [
            dict(
                clip_idx=idx,
                label=idx // count % NUM_CLASSES,
                displacement=self.displacements[idx % count],
            )
            for idx in range(self.num_clips)
        ]

    def scene(self, idx: int) -> Scene:
        """Return the scene of a sample, with its true motion.

        Args:
            idx: The sample's index.

        Returns:
            The scene; its ``render`` draws the frames, its ``flow`` gives the optical flow.
        """
        info = self.get_data_info(idx)
        rng = np.random.default_rng([self.seed, self.stream, info['clip_idx']])
        return self._sample(rng, label=info['label'], displacement=info['displacement'])

    def prepare_data(self, idx: int) -> Any:
        """Draw a sample and send it through the pipeline.

        Args:
            idx: The sample's index.

        Returns:
            What the pipeline makes of the sample.
        """
        frames = self.scene(idx).render()
        return self.pipeline(
            dict(
                self.get_data_info(idx),
                imgs=list(frames),
                modality='RGB',
                num_clips=1,
                clip_len=len(frames),
                img_shape=frames.shape[1:3],
            )
        )


def sample_scene(
    rng: np.random.Generator,
    task: str,
    label: int,
    displacement: float,
    *,
    num_frames: int = 8,
    size: int = 64,
    camera: bool = False,
    nonrigid: bool = False,
    appearance_change: bool = False,
    noise: float = 0.0,
    visible: float = 1.0,
    plain: float = 0.0,
) -> Scene:
    """Draw a scene of :class:`SyntheticClips`.

    The same state of the generator gives the same scene but for what the label and the
    displacement say: in ``'direction'`` the same middle of the clip, in the other tasks the same
    motion and colours.

    Args:
        rng: Source of randomness.
        task: ``'direction'``, ``'appearance'`` or ``'parts'``.
        label: The class, from 0 to 7.
        displacement: Displacement in pixels per frame.
        num_frames: As in :class:`SyntheticClips`, as all that follow. Default: 8.
        size: Height and width of the frames in pixels. Default: 64.
        camera: Whether the background moves. Default: False.
        nonrigid: Whether sprites change their size and swing a limb. Default: False.
        appearance_change: Whether brightness and contrast vary. Default: False.
        noise: Standard deviation of the noise, in units of 0..255. Default: 0.
        visible: Share of the sprites' pixels that are drawn. Default: 1.
        plain: Chance that the background is plain grey. Default: 0.

    Returns:
        The scene.

    Example:
        >>> scene = sample_scene(np.random.default_rng(0), 'appearance', label=3, displacement=4)
        >>> scene.render().shape
        (8, 64, 64, 3)
    """
    background = draw_texture(rng, size, (2, 4, 8, 16), 0.15, periodic=True)
    heading, pan = rng.uniform(0, 2 * np.pi, 2)
    pan_speed = rng.uniform(0, displacement)
    if task == 'direction':
        heading = label * np.pi / 4
        sprites = [draw_sprite(rng)[0] for _ in range(rng.integers(1, MAX_SPRITES + 1))]
        radius = size * rng.uniform(SMALLEST, LARGEST, len(sprites))
        angle = rng.uniform(0, 2 * np.pi, len(sprites))
    else:
        looks = _parts(rng, label) if task == 'parts' else [_glyph(rng, GLYPHS[label])]
        sprites = [looks[0]]
        radius = np.array([size * GLYPH_WIDTH / np.sqrt(2)])
        angle = np.zeros(1)
    middle = size * rng.random((len(sprites), 2))

    steps = np.arange(num_frames) - (num_frames - 1) / 2
    poses = np.empty((num_frames, len(sprites), 4))
    poses[..., :2] = middle + np.multiply.outer(steps, displacement * _along(heading))[:, None]
    poses[..., 2], poses[..., 3] = radius, angle
    light = rng.uniform((0.85, -0.06), (1.15, 0.06), (num_frames, 2))
    seed = int(rng.integers(2**63))
    if nonrigid:
        sprites, poses = _articulate(rng, sprites, poses, steps)
    drawn = np.stack(sprites)
    if task == 'parts':
        drawn = np.repeat(drawn[None], num_frames, axis=0)
        drawn[:, 0] = looks[np.arange(num_frames) % len(looks)]
    if rng.random() < plain:
        background = np.full_like(background, 0.5)
    return Scene(
        background,
        drawn,
        poses,
        camera=np.multiply.outer(steps, pan_speed * _along(pan)) if camera else None,
        light=light if appearance_change else None,
        noise=noise,
        visible=visible,
        seed=seed,
    )


def _along(heading: float) -> np.ndarray:
    """The unit vector (x, y) of a direction in radians; exact zeros keep sprites on their row."""
    return np.round([np.cos(heading), np.sin(heading)], 12)


def _glyph(rng: np.random.Generator, cells: int) -> np.ndarray:
    """A sprite of a pattern of cells in a random colour, either half of them the light one."""
    bits = np.array([int(bit) for bit in f'{cells:016b}']).reshape(4, 4)
    x, y = (np.sqrt(2) * axis for axis in texture_grid())  # the pattern spans -1..1
    column, row = (np.clip((axis + 1) * 2, 0, 3).astype(int) for axis in (x, y))
    lighter = rng.choice((-1, 1)) * (2 * bits[row, column, None] - 1)
    return _square(rng.uniform(0.35, 0.65, 3) + GLYPH_CONTRAST / 2 * lighter)


def _parts(rng: np.random.Generator, label: int) -> np.ndarray:
    """A sprite for each cell, clockwise, of a pattern or of its inverse, in a random colour."""
    lighter = rng.choice((-1, 1)) * np.array([2 * int(bit) - 1 for bit in f'{label:04b}'])
    colour = rng.uniform(0.35, 0.65, 3)
    x, y = texture_grid()
    cell = np.where(y < 0, x > 0, 2 + (x < 0))
    return np.stack(
        [
            _square(colour + GLYPH_CONTRAST / 2 * lighter[n] * (cell == n)[..., None])
            for n in range(4)
        ]
    )


def _square(colour: np.ndarray) -> np.ndarray:
    """A sprite of colours (64, 64, 3) that is a square."""
    x, y = (np.sqrt(2) * axis for axis in texture_grid())  # the square spans -1..1
    distance = (1 - np.maximum(abs(x), abs(y))) / np.sqrt(2)
    return np.dstack([colour, distance]).astype(np.float32)


def _articulate(
    rng: np.random.Generator, sprites: list[np.ndarray], poses: np.ndarray, steps: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Let each sprite change its size periodically, and give it a limb that swings."""
    parts, part_poses = [], []
    for sprite, pose in zip(sprites, poses.transpose(1, 0, 2), strict=True):
        turns = 2 * np.pi * (np.outer(steps, 1 / rng.uniform(6, 12, 2)) + rng.random(2))
        body = pose.copy()
        body[:, 2] *= 1 + rng.uniform(0.1, 0.25) * np.sin(turns[:, 0])
        hinge = rng.uniform(0, 2 * np.pi) + rng.uniform(0.3, 0.7) * np.sin(turns[:, 1])
        limb = body.copy()
        limb[:, :2] += body[:, 2:3] * np.stack([np.cos(hinge), np.sin(hinge)], axis=1)
        limb[:, 2] *= 0.5
        limb[:, 3] = hinge
        parts += [sprite, draw_sprite(rng)[0]]
        part_poses += [body, limb]
    return parts, np.stack(part_poses, axis=1)
