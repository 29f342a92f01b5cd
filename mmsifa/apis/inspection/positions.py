"""Which positions of a clip to look at first."""

from typing import NamedTuple

import cv2
import numpy as np

from mmsifa.apis.inspection.records import Inspection, LayerAttention


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
