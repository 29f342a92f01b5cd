# ruff: noqa: NPY002  (MMEngine seeds NumPy's global generator in each loader worker)
"""Tasks that any video can pose: the label in the annotation list says how it is played.

List each video once with each label; what the video shows then says nothing of the label.
"""

from collections.abc import Sequence

import numpy as np
from mmaction.datasets.transforms import SampleFrames
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


def _checked_label(results: dict, count: int, transform: BaseTransform) -> int:
    label = results['label']
    if not 0 <= label < count:
        raise ValueError(
            f'{type(transform).__name__} has {count} labels, 0 to {count - 1}, got {label} for '
            f'{results.get("filename", "a video")}; write a list of videos with its labels'
        )
    return label


@TRANSFORMS.register_module()
class PlayOrder(BaseTransform):
    """Play a clip forwards, label 0, or backwards, label 1.

    Put it after the decoding. Required keys are "imgs" and "label", modified keys are "imgs".

    Example:
        >>> PlayOrder()({'imgs': ['first', 'last'], 'label': 1})['imgs']
        ['last', 'first']
    """

    def transform(self, results: dict) -> dict:
        """Reverse ``results['imgs']`` where the label is 1.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.

        Raises:
            ValueError: If the label is neither 0 nor 1.
        """
        if _checked_label(results, 2, self):
            results['imgs'] = results['imgs'][::-1]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class PlaySpeed(SampleFrames):
    """Sample frames at an interval that the label chooses.

    It takes the place of MMAction2's ``SampleFrames``. A video must be long enough for the largest
    interval: in a shorter one frames would come again, which tells the label.

    Args:
        clip_len: Frames in a clip.
        intervals: Distance between sampled frames in frames of the video, for each label.
        num_clips: Clips sampled from a video. Default: 1.
        test_mode: Whether clips are taken from fixed places instead of random ones.
            Default: False.

    Raises:
        ValueError: If ``intervals`` are not 1 or more each.

    Example:
        >>> results = {'total_frames': 9, 'start_index': 0, 'label': 1}
        >>> speed = PlaySpeed(clip_len=3, intervals=(1, 2), test_mode=True)
        >>> speed(results)['frame_inds'].tolist()
        [2, 4, 6]
    """

    def __init__(
        self,
        clip_len: int,
        intervals: Sequence[int],
        num_clips: int = 1,
        test_mode: bool = False,
    ) -> None:
        if not intervals or min(intervals) < 1:
            raise ValueError(f'intervals must be one or more numbers from 1 on, got {intervals!r}')
        super().__init__(clip_len, num_clips=num_clips, test_mode=test_mode)
        self.intervals = tuple(intervals)

    def transform(self, results: dict) -> dict:
        """Choose ``results['frame_inds']``.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict, with the keys that ``SampleFrames`` adds.

        Raises:
            ValueError: If the label has no interval, or the video is too short.
        """
        self.frame_interval = self.intervals[_checked_label(results, len(self.intervals), self)]
        needed = (self.clip_len - 1) * max(self.intervals) + 1
        if results['total_frames'] < needed:
            raise ValueError(
                f'{self.clip_len} frames at an interval of {max(self.intervals)} need a video of '
                f'{needed} frames or more, but {results.get("filename", "this one")} has '
                f'{results["total_frames"]}; leave it out, or take smaller intervals'
            )
        return super().transform(results)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}('
            f'clip_len={self.clip_len}, '
            f'intervals={self.intervals}, '
            f'num_clips={self.num_clips}, '
            f'test_mode={self.test_mode})'
        )


@TRANSFORMS.register_module()
class PanningCrop(BaseTransform):
    """Cut out a square that moves over the frames, in the direction of the label.

    Label i is the direction ``i * 45`` degrees clockwise from right. The middle of the path is
    drawn uniformly from the same region for every label, by ``np.random``. What the video shows
    moves the other way in the crops.

    Put it after the decoding, of one clip per video. Required keys are "imgs" and "label", added or
    modified keys are "imgs" and "img_shape".

    Args:
        size: Height and width of the crops in pixels.
        displacement: Motion from frame to frame in pixels; positions are rounded to whole ones.

    Raises:
        ValueError: If ``size`` is not above 0, or ``displacement`` is negative.

    Example:
        >>> frame = np.tile(np.arange(8, dtype=np.uint8)[:, None], (8, 1, 3))  # column numbers
        >>> results = PanningCrop(size=4, displacement=2)({'imgs': [frame] * 3, 'label': 4})
        >>> [img[0, 0, 0].item() for img in results['imgs']]
        [4, 2, 0]
    """

    num_labels = 8

    def __init__(self, size: int, displacement: float) -> None:
        if size < 1:
            raise ValueError(f'size must be 1 pixel or more, got {size}')
        if not displacement >= 0:
            raise ValueError(f'displacement must be 0 pixels per frame or more, got {displacement}')
        self.size = size
        self.displacement = displacement

    def transform(self, results: dict) -> dict:
        """Crop each frame of ``results['imgs']``.

        Args:
            results: Results of the pipeline so far.

        Returns:
            The same dict.

        Raises:
            ValueError: If the label is not from 0 to 7, or a frame is too small for the path.
        """
        heading = _checked_label(results, self.num_labels, self) * np.pi / 4
        imgs = results['imgs']
        steps = self.displacement * np.arange(len(imgs))
        path = np.rint(np.outer(steps, (np.sin(heading), np.cos(heading)))).astype(int)
        margin = -(-round(steps[-1]) // 2)
        room = np.array(imgs[0].shape[:2]) - self.size - 2 * margin
        if min(room) < 0:
            height, width = imgs[0].shape[:2]
            least = self.size + 2 * margin
            raise ValueError(
                f'crops of {self.size} pixels that move by {self.displacement:g} pixels per frame '
                f'for {len(imgs)} frames need frames of {least}x{least} or more, got '
                f'{width}x{height}; enlarge the frames first, by Resize, or take a smaller size, '
                'a smaller displacement or fewer frames'
            )
        corners = margin + np.random.randint(room + 1) - path[-1] // 2 + path
        results['imgs'] = [
            img[y : y + self.size, x : x + self.size]
            for img, (y, x) in zip(imgs, corners, strict=True)
        ]
        results['img_shape'] = (self.size, self.size)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, displacement={self.displacement})'
