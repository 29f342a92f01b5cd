"""Patches of how MMAction2 reads and prepares data, and of MMEngine's loaders."""

import functools
import io
import os.path

import numpy as np
from mmengine.fileio import FileClient
from mmengine.runner import FlexibleRunner, Runner

from mmsifa.fileio.video import VideoReader


@functools.cache
def patch_video_reading():
    """Pipelines get other frames than they ask for (mmaction/datasets/transforms/loading.py:1146).

    decord and OpenCV count what an edit list hides, and after seeking take frames for others where
    they are reordered (dmlc/decord#195, #365, #373). The steps of Decord, OpenCV and PIMS read by
    :class:`~mmsifa.fileio.video.VideoReader`, ``DecordDecode(mode='efficient')`` too, which gave
    key frames. ``PyAVDecode`` decodes from the start, so only its count is wrong.
    ``UpstreamDecordInit`` and ``UpstreamDecordDecode`` unwrap the functions of MMAction2.
    """
    from mmaction.datasets import transforms as steps

    wrap = functools.partial(functools.update_wrapper, assigned=())
    wrap(_get_video_reader, steps.DecordInit._get_video_reader)
    wrap(_load_frames, steps.DecordDecode._decord_load_frames)
    for init in (steps.DecordInit, steps.OpenCVInit, steps.PIMSInit):
        init._get_video_reader = _get_video_reader
        init.transform = steps.DecordInit.transform
    for decode in (steps.DecordDecode, steps.OpenCVDecode, steps.PIMSDecode):
        decode._decord_load_frames = _load_frames
        decode.transform = steps.DecordDecode.transform
    steps.PyAVInit.transform = _counting(steps.PyAVInit.transform)


@functools.cache
def patch_video_drawing():
    """Drawn videos have hidden frames (mmaction/visualization/action_visualizer.py:120)."""
    from mmaction.visualization import ActionVisualizer

    upstream = ActionVisualizer._load_video

    @functools.wraps(upstream)
    def _load_video(self, video, *args, **kwargs):
        if isinstance(video, str) and os.path.isfile(video):
            video = [frame[..., ::-1] for frame in VideoReader(video)]
        return upstream(self, video, *args, **kwargs)

    ActionVisualizer._load_video = _load_video


def _get_video_reader(self, filename):
    """Open a video; where MMAction2 adds ``.mp4``, only if there is no file of the very name."""
    if not os.path.splitext(filename)[1] and not os.path.exists(filename):
        filename = f'{filename}.mp4'
    if self.io_backend == 'disk':
        return VideoReader(filename, getattr(self, 'num_threads', 1))
    if self.file_client is None:
        self.file_client = FileClient(self.io_backend, **self.kwargs)
    content = self.file_client.get(filename)
    return VideoReader(io.BytesIO(content), getattr(self, 'num_threads', 1))


def _load_frames(self, reader, inds):
    return reader.frames(inds)


def _counting(upstream):
    @functools.wraps(upstream)
    def transform(self, results):
        results = upstream(self, results)
        results['total_frames'] = len(_get_video_reader(self, results['filename']))
        return results

    return transform


def _adjust_hue(img, factor):
    import cv2

    hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0].astype(np.int16) + int(factor * 255)
    hsv[..., 0] = hue % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


@functools.cache
def patch_hue_overflow():
    """ColorJitter fails under numpy 2 (mmaction/datasets/transforms/processing.py:979).

    A negative shift does not fit its uint8 hue; pytorch/vision#8536 is the same error elsewhere.
    """
    from mmaction.datasets.transforms.processing import ColorJitter

    try:
        ColorJitter.adjust_hue(np.zeros((1, 1, 3), np.uint8), -0.1)
    except OverflowError:
        ColorJitter.adjust_hue = staticmethod(_adjust_hue)


@functools.cache
def patch_segments():
    """No 2D backbone learns how long clips are (mmaction/models/recognizers/recognizer2d.py:49).

    Recognizer2D makes one row of the frames of all clips, crops and videos. Here it shows what the
    pipeline chose, which PackActionInputs would drop, to a backbone that wants to check it.
    """
    from mmaction.datasets.transforms import PackActionInputs
    from mmaction.models import Recognizer2D

    init, upstream = PackActionInputs.__init__, Recognizer2D.forward

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.meta_keys = (*self.meta_keys, 'num_clips', 'clip_len')

    @functools.wraps(upstream)
    def forward(self, inputs, data_samples=None, *args, **kwargs):
        check = getattr(self.backbone, 'check_segments', None)
        if check is not None:
            check(inputs.shape[1], data_samples)
        return upstream(self, inputs, data_samples, *args, **kwargs)

    PackActionInputs.__init__, Recognizer2D.forward = __init__, forward


OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


@functools.cache
def patch_loaders_without_workers():
    """``num_workers=0`` fails beside ``persistent_workers=True`` (mmengine/runner/runner.py:1474).

    Such options are for worker processes, so PyTorch refuses them where there are none.
    """
    for runner in (Runner, FlexibleRunner):
        runner.build_dataloader = staticmethod(_without_worker_options(runner.build_dataloader))


def _without_worker_options(build_dataloader):
    @functools.wraps(build_dataloader)
    def build(dataloader, *args, **kwargs):
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {key: dataloader[key] for key in dataloader if key not in OF_WORKERS}
        return build_dataloader(dataloader, *args, **kwargs)

    return build
