"""MMAction2's data sets: with lists that are checked, and going on without unreadable videos.

And the steps that read by decord, as MMAction2 does.
"""

import os
import traceback
from inspect import unwrap
from typing import Any

import cv2
from mmaction.datasets import BaseActionDataset, RawframeDataset, VideoDataset
from mmaction.datasets import transforms as steps
from mmaction.registry import DATASETS, TRANSFORMS
from mmcv.transforms import BaseTransform

from mmsifa.datasets.annotations import read_annotations
from mmsifa.fileio.text_files import escape_path
from mmsifa.fileio.video import UnreadableVideoError

# The steps of a pipeline that open a video or decode it, and what is no fault of a file in them.
READING_STEPS = (
    *(steps.DecordInit, steps.DecordDecode, steps.PyAVInit, steps.PyAVDecode),
    *(steps.OpenCVInit, steps.OpenCVDecode, steps.PIMSInit, steps.PIMSDecode),
    steps.RawFrameDecode,
)
PROGRAMMING_ERRORS = (ImportError, KeyError, TypeError, AttributeError, NameError)


@TRANSFORMS.register_module()
class UpstreamDecordInit(steps.DecordInit):
    """Open a video by decord, as MMAction2's ``DecordInit`` does without mmsifa.

    It takes the arguments of ``DecordInit``. decord needs ``UpstreamDecordDecode`` beside it, and
    gives other frames than asked for in trimmed videos and in AVI, MPEG-TS and MPEG-PS.

    Example:
        >>> pipeline = [dict(type='UpstreamDecordInit'), dict(type='UpstreamDecordDecode')]
    """

    _get_video_reader = unwrap(steps.DecordInit._get_video_reader)


@TRANSFORMS.register_module()
class UpstreamDecordDecode(steps.DecordDecode):
    """Decode frames by decord: see :class:`UpstreamDecordInit`. Arguments of ``DecordDecode``."""

    _decord_load_frames = unwrap(steps.DecordDecode._decord_load_frames)


def reason_of(step: str, error: Exception) -> str:
    """Why a step failed, on one line.

    Args:
        step: Name of the step.
        error: What it raised.

    Returns:
        The step and the first line of the error's message.

    Example:
        >>> reason_of('DecordInit', RuntimeError('it has no video'))
        'DecordInit: it has no video'
    """
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    return escape_path(f'{step}: {first[:200]}')


def _reading_failure(error: Exception) -> str | None:
    """Why a step that opens or decodes a video or a frame failed; None if no such step did."""
    reason = None
    readers = BaseTransform if isinstance(error, UnreadableVideoError) else READING_STEPS
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(step := frame.f_locals.get('self'), readers):
            reason = reason_of(type(step).__name__, error)
            if file := frame.f_locals.get('filepath'):  # that RawFrameDecode reads
                return frame_failure(file, error)
    return reason


def frame_failure(file: str, error: Exception) -> str:
    """Why a raw frame cannot be read.

    Args:
        file: Path of the frame.
        error: What was raised.

    Returns:
        The step, the name of the file and the reason, on one line.

    Example:
        >>> frame_failure('video/00007.jpg', FileNotFoundError(2, 'No such file or directory'))
        'RawFrameDecode: 00007.jpg: No such file or directory'
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, cv2.error):  # OpenCV names a place in its own code
        reason = 'it is empty' if not os.path.getsize(file) else 'it is cut off or no image'
    return reason_of('RawFrameDecode', RuntimeError(f'{os.path.basename(file)}: {reason}'))


def _read_list(dataset, columns, prefix, delimiter) -> list[dict]:
    if dataset.multi_class and dataset.num_classes is None:
        raise ValueError(
            f'{type(dataset).__name__} with multi_class expects num_classes, the number of '
            'classes, got None'
        )
    samples, dataset.largest_label = read_annotations(
        dataset.ann_file,
        columns,
        root=prefix,
        delimiter=delimiter,
        multi_class=dataset.multi_class,
        num_classes=dataset.num_classes,
        labels_required=not dataset.test_mode,
    )
    return samples


class _OneList(BaseActionDataset):
    """Takes one annotation list, by its path."""

    ann_file: Any

    def _join_prefix(self) -> None:
        if isinstance(self.ann_file, os.PathLike):
            self.ann_file = os.fspath(self.ann_file)
        if isinstance(self.ann_file, str):
            super()._join_prefix()
            if not os.path.isdir(self.ann_file):
                return
        raise ValueError(
            f'{type(self).__name__} expects ann_file to be the path of one annotation list, got '
            f'{self.ann_file!r}; for several, put a data set of each into a ConcatDataset'
        )


class NamesUnreadable(_OneList):
    """A part of data sets that names what cannot be read.

    Attributes:
        path_key: Where a sample has the path of its video.
        prefix_key: Where ``data_prefix`` has the folder of the videos.
        tolerant: Name of the data set that leaves out what cannot be read.
    """

    path_key: str
    prefix_key: str
    tolerant: str

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on a sample.

        Args:
            idx: The index of the sample.

        Returns:
            What the pipeline makes of it.

        Raises:
            UnreadableVideoError: If the video or a frame of it cannot be opened or decoded.
        """
        info = self.get_data_info(idx)
        video = info[self.path_key]
        try:
            return self.pipeline(info)
        except PROGRAMMING_ERRORS:
            raise
        except Exception as error:
            reason = _reading_failure(error)
            if reason is None:
                raise
            self._unreadable(video, reason, error)
            return None

    def _unreadable(self, video: str, reason: str, error: Exception) -> None:
        raise UnreadableVideoError(
            f'{escape_path(video)} cannot be read ({reason}). mmsifa check-videos finds all such '
            f'videos of a list, {self.tolerant} leaves them out'
        ) from error


@DATASETS.register_module()
class CheckedVideoDataset(NamesUnreadable, VideoDataset):
    """MMAction2's ``VideoDataset``, which reads its list strictly and names unreadable videos.

    Samples and arguments are those of ``VideoDataset``. What is wrong with the list is said before
    training starts (:func:`~mmsifa.datasets.annotations.read_annotations`): ``data_prefix`` is the
    root that no path may leave. Only in test mode may the list have no labels.

    Attributes:
        largest_label: The largest label of the list and its line, (-1, 0) without labels.

    Raises:
        AnnotationError: If the list lies.
        UnreadableVideoError: When a video cannot be read, with its name and the reason.

    Example:
        >>> folder = getfixture('tmp_path')
        >>> _ = (folder / 'list.txt').write_text('a.mp4 0')
        >>> _ = (folder / 'a.mp4').write_text('404 Not Found')
        >>> steps = [dict(type='mmaction.DecordInit')]
        >>> dataset = CheckedVideoDataset(str(folder / 'list.txt'), steps, dict(video=str(folder)))
        >>> try:
        ...     dataset[0]
        ... except UnreadableVideoError as error:
        ...     print(str(error).partition('a.mp4')[2].partition('. ')[0])
         cannot be read (DecordInit: FFmpeg cannot read it (Invalid data found when processing \
input))
    """

    path_key, prefix_key = 'filename', 'video'
    tolerant = 'FaultTolerantVideoDataset'

    def load_data_list(self) -> list[dict]:
        """Read the list; see :func:`~mmsifa.datasets.annotations.read_annotations`."""
        return _read_list(self, ('filename',), self.data_prefix[self.prefix_key], self.delimiter)


@DATASETS.register_module()
class CheckedRawframeDataset(NamesUnreadable, RawframeDataset):
    """MMAction2's ``RawframeDataset``, which reads its list strictly and names unreadable frames.

    Samples and arguments are those of ``RawframeDataset``. What is wrong with the list is said
    before training starts (:func:`~mmsifa.datasets.annotations.read_annotations`): ``data_prefix``
    is the root that no path may leave. Only in test mode may the list have no labels.

    Args:
        *args: As in ``RawframeDataset``.
        delimiter: What separates the columns. Default: None, any white space.
        **kwargs: As in ``RawframeDataset``.

    Attributes:
        largest_label: The largest label of the list and its line, (-1, 0) without labels.

    Raises:
        AnnotationError: If the list lies.
        UnreadableVideoError: When a frame cannot be read, with the folder, its name and the reason.

    Example:
        >>> file = getfixture('tmp_path') / 'list.txt'
        >>> _ = file.write_text('video 30 1')
        >>> CheckedRawframeDataset(str(file), [], dict(img='frames'))[0]['frame_dir']
        'frames/video'
    """

    path_key, prefix_key = 'frame_dir', 'img'
    tolerant = 'FaultTolerantRawframeDataset'

    def __init__(self, *args, delimiter: str | None = None, **kwargs):
        self.delimiter = delimiter
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the list; see :func:`~mmsifa.datasets.annotations.read_annotations`."""
        offset = ('offset',) if self.with_offset else ()
        columns = ('frame_dir', *offset, 'total_frames')
        return _read_list(self, columns, self.data_prefix[self.prefix_key], self.delimiter)


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
