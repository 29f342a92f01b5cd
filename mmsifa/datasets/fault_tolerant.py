"""Data sets that go on without the videos that cannot be read."""

from typing import Any

from mmaction.registry import DATASETS

from mmsifa.datasets.checked import (
    CheckedRawframeDataset,
    CheckedVideoDataset,
    NamesUnreadable,
)
from mmsifa.fileio.text_files import escape_path
from mmsifa.fileio.video import UnreadableVideoError


class FaultTolerant(NamesUnreadable):
    """A part of data sets that go on without what cannot be read.

    In training another sample is drawn in the place of an unreadable one. Which ones were replaced
    travels with the sample, as ``data_sample.unreadable``, a list of (video, reason), to
    :class:`~mmsifa.engine.hooks.BadVideosHook`, which counts, logs and lists them and stops when
    they are too many. In testing an unreadable video stops the run, or with
    ``on_test_failure='missing'`` the hook scores it as wrong, whatever its class.

    Only failures of the steps that open and decode videos or frames count. Errors of the
    configuration and of other steps stop at once, as does a video that fails where no BadVideosHook
    is there to count it. A decoder that crashes takes its process along: ``mmsifa check-videos``
    finds such files.

    Args:
        *args: As in the data set.
        max_refetch: How many unreadable videos in a row are replaced. More, as with a wrong
            ``data_prefix``, are an error. Default: 10.
        on_test_failure: ``'raise'`` or ``'missing'``. Default: ``'raise'``.
        **kwargs: As in the data set.

    Attributes:
        counted: Whether a hook counts the failures; the hook sets it before the run.

    Raises:
        ValueError: If ``on_test_failure`` is neither of the two.
        UnreadableVideoError: When a video cannot be read and is not replaced.
    """

    counted = False

    def __init__(self, *args, max_refetch: int = 10, on_test_failure: str = 'raise', **kwargs):
        if on_test_failure not in ('raise', 'missing'):
            raise ValueError(
                f"on_test_failure must be 'raise' or 'missing', got {on_test_failure!r}"
            )
        self.on_test_failure = on_test_failure
        self._failed: list[tuple[str, str]] = []
        super().__init__(*args, max_refetch=max_refetch, **kwargs)

    def __getitem__(self, idx: int) -> Any:
        """Return the sample of an index, or one in its place that says so.

        Args:
            idx: The index.

        Returns:
            What the pipeline makes of the sample.

        Raises:
            UnreadableVideoError: If it cannot be read and is not replaced.
        """
        self._failed = []
        index = idx
        for _ in range(self.max_refetch + 1):
            data = self.prepare_data(index)
            if data is not None:
                break
            # A stand-in for a test sample only has to have the right shape.
            index = (index + 1) % len(self) if self.test_mode else self._rand_another()
        else:
            raise RuntimeError(
                f'the pipeline returned no sample {self.max_refetch + 1} times in a row, which is '
                'more than max_refetch'
            )
        if self._failed:
            sample = data['data_samples']
            sample.unreadable = self._failed
            if self.test_mode:
                sample.unreadable = self._failed[:1]  # the others have their own turn
                sample.set_gt_label(self.get_data_info(idx)['label'])
        return data

    def _unreadable(self, video: str, reason: str, error: Exception) -> None:
        self._failed.append((video, reason))
        if not self.counted:
            why = 'No BadVideosHook counts such videos: add it to default_hooks'
        elif self.test_mode and self.on_test_failure == 'raise':
            why = "on_test_failure='missing' scores such videos as wrong"
        elif len(self._failed) > self.max_refetch:
            folder = self.data_prefix[self.prefix_key]
            why = (
                f'It is the last of {len(self._failed)} unreadable ones in a row: is '
                f'data_prefix.{self.prefix_key}={folder!r} the folder of the videos?'
            )
        else:
            return
        raise UnreadableVideoError(
            f'{escape_path(video)} cannot be read ({reason}). {why}'
        ) from error


@DATASETS.register_module()
class FaultTolerantVideoDataset(FaultTolerant, CheckedVideoDataset):
    """A :class:`CheckedVideoDataset` that goes on without the videos that cannot be read.

    See :class:`FaultTolerant`.

    Example:
        In a config::

            train_dataloader = dict(dataset=dict(type='FaultTolerantVideoDataset'))
            default_hooks = dict(bad_videos=dict(type='BadVideosHook', max_failed_share=0.02))
    """


@DATASETS.register_module()
class FaultTolerantRawframeDataset(FaultTolerant, CheckedRawframeDataset):
    """A :class:`CheckedRawframeDataset` that goes on without the videos with unreadable frames.

    See :class:`FaultTolerant`.

    Example:
        In a config::

            train_dataloader = dict(dataset=dict(type='FaultTolerantRawframeDataset'))
    """
