"""Videos encoded anew to decode fast: the same frames at the same times, smaller, key frames near.

H.264 by libx264, which PyAV's wheels bring, without what makes decoding slow: B-frames, arithmetic
coding and the deblocking filter.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mmsifa.fileio.atomic_write import replaced
from mmsifa.fileio.video import UnreadableVideoError, VideoReader, turn

_COLOURS = ('colorspace', 'color_range', 'color_primaries', 'color_trc')  # what pixels mean


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded.

    Args:
        short_side: Pixels that the shorter side has at most; an even number.
        keyframe_interval: Frames from one key frame to the next.
        crf: libx264's constant rate factor, from 0, lossless, to 51.

    Raises:
        ValueError: If one of them is out of its range.
    """

    short_side: int = 256
    keyframe_interval: int = 16
    crf: int = 18

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(
                f'the short side must be an even number of pixels, 16 or more, got '
                f'{self.short_side}'
            )
        if self.keyframe_interval < 1:
            raise ValueError(
                f'the key frame interval must be 1 frame or more, got {self.keyframe_interval}'
            )
        if not 0 <= self.crf <= 51:
            raise ValueError(f'the constant rate factor must be 0 to 51, got {self.crf}')

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to which frames are scaled, before a last odd one goes.

        Args:
            width: Of the source, in pixels.
            height: Likewise.

        Returns:
            Those of the source if its short side is short enough, else even ones.

        Example:
            >>> Encoding(256).size_of(1920, 1080), Encoding(256).size_of(67, 45)
            ((456, 256), (67, 45))
        """
        short = min(width, height)
        if short <= self.short_side:
            return width, height
        scale = self.short_side / short / 2
        return round(width * scale) * 2, round(height * scale) * 2


class UprightFrames:
    """Frames of a video as an encoder takes them: scaled, upright, 8 bits with 4:2:0 colours.

    The colours keep the range and the matrix that they have in the source; of RGB they get those of
    BT.601 video. Of a side that stays odd, the last row or column is left out.

    Args:
        reader: The video.
        encoding: How it is encoded.
    """

    def __init__(self, reader: VideoReader, encoding: Encoding) -> None:
        self._reader = reader
        self._size = encoding.size_of(reader.stream.width, reader.stream.height)
        self._reformatter, self._halver = VideoReformatter(), VideoReformatter()

    def __getitem__(self, index: int) -> Any:
        """Return a frame, PyAV's ``VideoFrame``.

        Raises:
            UnreadableVideoError: If it cannot be decoded.
        """
        frame = self._reader.decoded(index)
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
        if matrix is None and not any(side % 2 for side in self._size):
            return self._scaled(frame, 'yuv420p')
        full = self._scaled(frame, 'yuv444p')
        image = full.to_ndarray(channel_last=True)
        if matrix is not None:
            image = turn(image, np.frombuffer(matrix, np.int32))
        height, width = (side // 2 * 2 for side in image.shape[:2])
        even = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(image[:height, :width]), 'yuv444p', channel_last=True
        )
        for name in _COLOURS:
            setattr(even, name, getattr(full, name))
        return self._halver.reformat(even, format='yuv420p', threads=1)

    def _scaled(self, frame: Any, colours: str) -> Any:
        width, height = self._size
        rgb = frame.format.is_rgb
        return self._reformatter.reformat(
            frame,
            width,
            height,
            colours,
            dst_colorspace=Colorspace.ITU601 if rgb else None,
            dst_color_range=ColorRange.MPEG if rgb else None,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )


def reencode(source: str | os.PathLike, target: str | Path, encoding: Encoding) -> None:
    """Encode a video anew, without its sound, and check that it has the same frames and times.

    The times are those that :class:`~mmsifa.fileio.video.VideoReader` gives, counted from the first
    frame in the source's time base. The target appears when it is complete, checked and on the
    disk.

    Args:
        source: The video.
        target: MP4 file to write; missing folders are made.
        encoding: How.

    Raises:
        UnreadableVideoError: If the source cannot be read, H.264 cannot hold it, or what was
            written does not have its frames and times.
        OSError: If the target cannot be written.
    """
    try:
        reader = VideoReader(source)
    except OSError as error:
        raise UnreadableVideoError(error.strerror or str(error)) from error
    width, height = reader.stream.width, reader.stream.height
    if min(width, height) < 2:
        raise UnreadableVideoError(f'it has {width} x {height} pixels, expected 2 x 2 or more')
    with replaced(target) as file:
        try:
            _encode(reader, encoding, file)
        except FFmpegError as error:
            raise UnreadableVideoError(f'H.264 cannot hold it ({error.strerror})') from error
        file.flush()
        written = VideoReader(file.name)
        if len(written) != len(reader):
            raise UnreadableVideoError(f'{len(reader)} frames became {len(written)}')
        late = np.abs(written.times - reader.times).max()
        if late > reader.stream.time_base:
            raise UnreadableVideoError(f'a time stamp would change by {late:.6f} s')
        for index in range(len(written)):
            written.decoded(index)


def _encode(reader: VideoReader, encoding: Encoding, file: BinaryIO) -> None:
    """Write the frames of a video, each with its time, and the last one with its duration."""
    unit = reader.stream.time_base
    stamps = np.rint([*reader.times / float(unit), reader.duration / float(unit)]).astype(int)
    durations = dict(zip(stamps[:-1].tolist(), np.diff(stamps).tolist(), strict=True))
    options = {
        **{'preset': 'faster', 'tune': 'fastdecode', 'bf': '0', 'crf': str(encoding.crf)},
        **{'g': str(encoding.keyframe_interval), 'keyint_min': str(encoding.keyframe_interval)},
        'sc_threshold': '0',  # no further key frames where the scene changes
    }
    frames = UprightFrames(reader, encoding)
    with av.open(file, 'w', format='mp4') as container:
        rate = max(1, round(reader.get_avg_fps()))
        stream: Any = container.add_stream('libx264', rate, options)
        context = stream.codec_context
        context.time_base, context.thread_count = unit, 1
        for index, stamp in enumerate(durations):
            try:
                frame = frames[index]
            except OSError as error:  # a disk that fails while it is read
                raise UnreadableVideoError(error.strerror or str(error)) from error
            if index == 0:
                context.width, context.height, context.pix_fmt = (
                    frame.width,
                    frame.height,
                    'yuv420p',
                )
                for name in _COLOURS:
                    setattr(context, name, getattr(frame, name))
            frame.pts, frame.time_base, frame.pict_type = stamp, unit, PictureType.NONE
            _mux(container, stream.encode(frame), durations)
        _mux(container, stream.encode(), durations)


def _mux(container: Any, packets: list[Any], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations[packet.pts]
        container.mux(packet)
