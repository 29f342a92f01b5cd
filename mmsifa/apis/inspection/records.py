"""What is seen of a network's inter-frame attention on one clip, and where to look first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass
class LayerAttention:
    """What a SIFA layer did between the T feature frames of a clip, T - 1 pairs.

    Args:
        name: The layer's name in the recognizer, such as ``backbone.layer2.1.sifa``.
        kernel_size: Side K of its window.
        dilation: Distance of neighbouring taps in feature pixels.
        frames: For every feature frame the index of the clip's frame that stands for it, T numbers;
            in reverse order where a layer looks at the frame before.
        offset: (T - 1, K*K, 2, H, W): how far each tap was moved, down and to the right, in feature
            pixels.
        weights: (T - 1, G, K*K, H, W): attention weights of G heads, as the layer used them.
        saliency: (T - 1, H, W): mean over the channels of the motion saliency map's magnitude, also
            where a layer predicts offsets without it (``motion_rescaling=False``).
    """

    name: str
    kernel_size: int
    dilation: int
    frames: Sequence[int]
    offset: Array
    weights: Array
    saliency: Array

    def grid(self) -> Array:
        """Return the undeformed sampling positions, (K*K, 2, H, W): y and x in feature pixels."""
        height, width = self.offset.shape[-2:]
        centres = np.indices((height, width))
        half = self.kernel_size // 2
        taps = np.indices((self.kernel_size, self.kernel_size)).reshape(2, -1).T - half
        return (centres + self.dilation * taps[:, :, None, None]).astype(np.float32)

    def positions(self) -> Array:
        """Return the sampling positions, (T - 1, K*K, 2, H, W): y and x in feature pixels."""
        return self.grid() + self.offset

    def entropy(self) -> Array:
        r"""Return how evenly a position's weights are spread, (T - 1, G, H, W), from 0 to 1.

        .. math:: -\sum_k p_k \log p_k \,/\, \log K^2, \quad p_k = |w_k| / \sum_j |w_j|

        0 is one tap alone, 1 all taps alike (or none).
        """
        size = np.abs(self.weights)
        total = size.sum(axis=2, keepdims=True)
        share = np.divide(size, total, out=np.full_like(size, 1 / size.shape[2]), where=total > 0)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        entropy = -(share * logs).sum(axis=2) / max(np.log(size.shape[2]), 1e-12)
        return np.clip(entropy, 0, 1)  # rounding leaves the range

    def signed(self) -> bool:
        """Return whether there are negative weights, which need a scale of their own."""
        return bool((self.weights < 0).any())

    def outside(self) -> NDArray[np.bool_]:
        """Return which samples lie outside the frame and count as zero, (T - 1, K*K, H, W)."""
        height, width = self.offset.shape[-2:]
        y, x = np.moveaxis(self.positions(), 2, 0)
        return ~((y > -1) & (y < height) & (x > -1) & (x < width))


@dataclass
class Inspection:
    """A clip and what every SIFA layer of a recognizer did on it.

    Args:
        video: Name of the video.
        config: Name of the recognizer's config.
        checkpoint: Name of its weights' file.
        frames: The clip as the network saw it, (frames, height, width, 3), RGB, 0 to 255.
        layers: Its SIFA layers, in the order in which they ran.
        scores: Names and scores of the best classes, the best first.
        times: Of each frame its place in the video in seconds. Defaults to None: not known.
    """

    video: str
    config: str
    checkpoint: str
    frames: NDArray[np.uint8]
    layers: list[LayerAttention]
    scores: list[tuple[str, float]] = field(default_factory=list)
    times: Sequence[float] | None = None


def to_pixels(positions: Array, map_size: int, frame_size: int) -> Array:
    """Map positions on a feature map to the pixels of the frame, along one axis.

    Args:
        positions: In feature pixels; whole numbers are centres.
        map_size: Height or width of the map.
        frame_size: The same side of the frame in pixels.

    Returns:
        Positions in pixels of the frame, of which whole numbers are centres too.

    Example:
        >>> import numpy as np
        >>> to_pixels(np.array([0.0, 1.0]), map_size=28, frame_size=224)
        array([ 3.5, 11.5])
    """
    return (positions + 0.5) * (frame_size / map_size) - 0.5


class Position(NamedTuple):
    """A position that is looked at: its pair of feature frames, row and column on the map."""

    pair: int
    y: int
    x: int


def choose_positions(
    inspection: Inspection, layer: LayerAttention, count: int = 4
) -> list[Position]:
    """Choose positions where much moves, apart from each other in time and space.

    One after the other the position whose patch differs most between the two frames is taken.
    Positions within a fifth of the map's longer side of one that is taken are left out, as long
    as there are others, and so are those at the border of the frame, some of whose neighbours are
    outside. Differences within a pair of frames that is taken count half.

    Args:
        inspection: The clip.
        layer: A layer of it.
        count: How many positions. Defaults to 4.

    Returns:
        The positions, by pair and then from top to bottom; the same for the same clip.
    """
    height, width = layer.saliency.shape[1:]
    gray = inspection.frames[list(layer.frames)].mean(axis=3, dtype=np.float32)
    change = np.stack(
        [
            cv2.resize(c, (width, height), interpolation=cv2.INTER_AREA)
            for c in abs(np.diff(gray, axis=0))
        ]
    )
    free = np.zeros((height, width), bool)
    free[1:-1, 1:-1] = True
    rows, columns = np.indices(free.shape)
    taken: list[Position] = []
    for _ in range(count):
        if not free.any():
            free[:] = True  # the border, too
            for other in taken:
                free[other.y, other.x] = False
            if not free.any():
                break
        pair, y, x = np.unravel_index(np.where(free, change, -1).argmax(), change.shape)
        taken.append(Position(int(pair), int(y), int(x)))
        free &= np.hypot(rows - y, columns - x) > max(height, width) / 5
        change[pair] /= 2
    return sorted(taken)
