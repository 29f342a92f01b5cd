"""Patches of how MMAction2 reads and draws videos."""

import functools
import io
import os.path

from mmengine.fileio import FileClient

from mmsifa.fileio.video import VideoReader


@functools.cache
def patch_video_reading():
    """Pipelines get other frames than they ask for (mmaction/datasets/transforms/loading.py:1146).

    decord and OpenCV count what an edit list hides, and after seeking take frames for others where
    they are reordered (dmlc/decord#195, #365, #373). The steps of Decord, OpenCV and PIMS read by
    :class:`~mmsifa.fileio.video.VideoReader`, ``DecordDecode(mode='efficient')`` too, which gave
    key frames. ``PyAVDecode`` decodes from the start, so only its count is wrong.
    """
    from mmaction.datasets import transforms as steps

    for init in (steps.DecordInit, steps.OpenCVInit, steps.PIMSInit):
        init._get_video_reader = _get_video_reader
        init.transform = steps.DecordInit.transform
    for decode in (steps.DecordDecode, steps.OpenCVDecode, steps.PIMSDecode):
        decode._decord_load_frames = lambda self, reader, inds: list(reader.get_batch(inds))
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


def _counting(upstream):
    @functools.wraps(upstream)
    def transform(self, results):
        results = upstream(self, results)
        results['total_frames'] = len(_get_video_reader(self, results['filename']))
        return results

    return transform
