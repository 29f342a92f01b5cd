"""Video files: the frames that a player shows, their times, and each of them by its number."""

import os
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from math import inf
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

_RECENT = 2**27  # bytes of decoded frames that are kept, at most
# PyAV before 19 refuses titles that are not UTF-8, unless it is told.
_OPTIONS: dict[str, Any] = (
    dict(metadata_errors='replace') if int(av.__version__.split('.')[0]) < 19 else {}
)


class UnreadableVideoError(RuntimeError):
    """A video cannot be opened or decoded; the message says why."""


def tolerance(times: Sequence[float] | NDArray) -> float:
    """Return by how many seconds two times may differ that mean the same.

    Args:
        times: When each frame of a video appears, in seconds; Matroska rounds to milliseconds.
    """
    steps = np.diff(times)
    return min(1e-3, float(steps[steps > 0].min(initial=np.inf)) / 2)


class VideoReader:
    """The frames of a video that a player shows, in its order, as RGB and turned upright.

    Nothing that the container counts is believed. The frames are the time stamps of the packets
    that no edit list hides, and each decoded frame is known by its own, wherever seeking has led
    to. A file whose packets do not tell them (AVI with B-frames, MPEG program streams, a stream
    that starts between key frames) is decoded once when it is opened, to count, and where time
    stamps are of no use again from its start for each frame that does not come later than the last.

    Args:
        file: Path, or a binary file that can seek.
        num_threads: Threads to decode with. Defaults to 1.

    Attributes:
        times: When each frame appears, in seconds after the first one, (frames,).
        duration: When the last one ends, in seconds.
        stream: PyAV's stream, which knows the codec, the time base and what the pixels mean.

    Raises:
        OSError: If there is no such file or it may not be read.
        UnreadableVideoError: If it has no frames or cannot be read; from the other methods, if a
            frame cannot be decoded.

    Example:
        >>> import numpy as np
        >>> from mmsifa.fileio.video import VideoReader, VideoWriter
        >>> path = getfixture('tmp_path') / 'video.mp4'
        >>> with VideoWriter(path) as writer:
        ...     for i in range(4):
        ...         writer.write(np.full((32, 48, 3), 60 * i, np.uint8), i / 10, (i + 1) / 10)
        >>> reader = VideoReader(path)
        >>> len(reader), reader.times.tolist(), round(reader.duration, 6), reader[2].shape
        (4, [0.0, 0.1, 0.2, 0.3], 0.4, (32, 48, 3))
    """

    def __init__(self, file: str | os.PathLike | BinaryIO, num_threads: int = 1) -> None:
        self._container: Any = None
        self._own = isinstance(file, str | os.PathLike)
        self._file: Any = open(file, 'rb') if self._own else file  # type: ignore  # noqa: SIM115
        self._num_threads = num_threads
        self._reformatter = VideoReformatter()
        self._lock = threading.Lock()
        self._open()
        self._length, self._stamps, seconds, last = self._index()
        self._position = self._length  # at the end of the file
        if not self._length:
            raise UnreadableVideoError('it has no frames')
        self.times: NDArray[np.float64] = np.array(seconds) - seconds[0]
        steps = np.diff(self.times)
        if not last:
            last = float(np.median(steps)) if len(steps) else 1 / self._rate()
        self.duration = float(self.times[-1]) + last

    def __del__(self) -> None:
        """Close the file, which PyAV leaves to Python's search for cycles."""
        if hasattr(self, '_file'):  # else opening it failed
            self._close()
            if self._own:
                self._file.close()

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._length

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return a frame, (H, W, 3)."""
        return self.get_batch([index])[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames in order; one is in memory at a time."""
        for index in range(len(self)):
            yield self[index]

    def get_batch(self, indices: Sequence[int] | NDArray) -> NDArray[np.uint8]:
        """Return frames by their numbers, as :meth:`frames` does, (len(indices), H, W, 3)."""
        return np.stack(self.frames(indices))

    def frames(self, indices: Sequence[int] | NDArray) -> list[NDArray[np.uint8]]:
        """Return frames by their numbers, which may repeat and be in any order.

        Args:
            indices: Numbers from 0 on.

        Returns:
            The frames, each (H, W, 3) and with memory of its own, of which rows may lie apart.

        Raises:
            IndexError: If a number is below 0 or there are not as many frames.
            UnreadableVideoError: If a frame cannot be decoded.
        """
        numbers = [int(index) for index in indices]
        wrong = [number for number in numbers if not 0 <= number < len(self)]
        if wrong:
            raise IndexError(f'expected frames 0 to {len(self) - 1}, got {wrong[0]}')
        with self._lock:
            frames = {number: self._rgb(self._frame(number)) for number in sorted(set(numbers))}
        last = {number: place for place, number in enumerate(numbers)}
        return [
            frames[number] if place == last[number] else frames[number].copy()
            for place, number in enumerate(numbers)
        ]

    def decoded(self, index: int) -> Any:
        """Return a frame as PyAV's ``VideoFrame``, in its own colours, not turned.

        Args:
            index: Its number.

        Returns:
            The frame.

        Raises:
            UnreadableVideoError: If it cannot be decoded.
        """
        with self._lock:
            return self._frame(index)

    def frame_at(self, seconds: float) -> int:
        """Return the number of the frame that is seen at a time."""
        seen = np.searchsorted(self.times, seconds + tolerance(self.times), side='right')
        return max(0, int(seen) - 1)

    def get_avg_fps(self) -> float:
        """Return the number of frames divided by the duration."""
        return len(self) / self.duration

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()

    def _open(self) -> None:
        """Open the file, at its start."""
        self._close()
        self._file.seek(0)
        if not self._file.read(1):
            raise UnreadableVideoError('the file is empty')
        self._file.seek(0)
        try:  # as a file whose name says nothing and which may open no others, as playlists do
            self._container = av.open(
                self._file, options=dict(protocol_whitelist='none'), **_OPTIONS
            )
        except FFmpegError as error:
            raise _unreadable(error) from error
        self.stream: Any = self._container.streams.best('video')
        if self.stream is None or self.stream.disposition & Disposition.attached_pic:
            raise UnreadableVideoError('it has no video, expected a file with one')
        if self.stream.codec_context is None:
            raise UnreadableVideoError('FFmpeg knows no decoder for its video')
        self.stream.thread_type = 'AUTO' if self._num_threads > 1 else 'NONE'
        self.stream.codec_context.thread_count = self._num_threads
        self._unit = float(self.stream.time_base)
        self._size = self.stream.width, self.stream.height
        if not all(self._size):
            raise UnreadableVideoError('it does not tell the size of its frames')
        if self._size == (1, 1):
            raise UnreadableVideoError('its frames have one pixel, expected more')
        self._start()
        # Frames, where going back costs a new start
        self._recent = deque[Any](maxlen=max(1, _RECENT // (2 * self._size[0] * self._size[1])))

    def _start(self, from_key_frame: bool = False) -> None:
        """Decode from where the file is, or from the next key frame on."""
        self._position = -1  # of the last frame decoded
        self._left_out: set[int] = set()  # time stamps of frames that were not decoded
        self._wanted = [-inf]  # the time stamp before which frames may be left out
        self._frames = _frames(
            self._container, self.stream, self._wanted, self._left_out, from_key_frame
        )

    def _index(self) -> tuple[int, list[int] | None, list[float], float]:
        """Count the frames.

        Returns:
            Their number, their time stamps if these tell one from the other, their times in
            seconds, and how long the last one is shown, 0 if the file does not say so.
        """
        shown: list[tuple[Any, int, bool]] = []
        self._keys = []
        jump = 0  # of the time stamps where recordings were joined
        jumps, expected = False, None
        # FFmpeg takes what it seeks in these for the time of a frame, in others for its decoding's.
        by_pts = self._container.format.name.startswith(('mov', 'matroska'))
        for packet in _packets(self._container, self.stream):
            if not packet.size:
                continue
            pts, dts, duration = packet.pts, packet.dts, packet.duration or 0
            if packet.is_keyframe and pts is not None:
                # Where seeking leads there, in the order of time
                self._keys.append((pts, pts if dts is None or by_pts else dts))
            if dts is not None:
                if expected is not None and not -1 <= (dts - expected) * self._unit <= 10:
                    jump, jumps = jump + expected - dts, True
                expected = dts + duration
            if not packet.is_discard:
                shown.append((None if pts is None else pts + jump, duration, packet.is_keyframe))
        self._keys.sort()
        stamps = [pts for pts, _, _ in shown]
        known = bool(shown) and None not in stamps and not jumps
        stamped = known and len(set(stamps)) == len(stamps)
        # AVI has no time stamps and MPEG program streams not all of them: FFmpeg guesses.
        container, codec = self._container.format.name, self.stream.codec_context
        guessed = container == 'mpeg' or (container == 'avi' and codec.has_b_frames)
        hides = codec.name == 'vp8'  # has packets that show nothing
        if stamped and shown[0][2] and stamps[0] == min(stamps) and not guessed and not hides:
            shown.sort()
            stamps = [pts for pts, _, _ in shown]
            return len(shown), stamps, self._seconds(stamps), shown[-1][1] * self._unit
        self._open()
        decoded = [frame.pts for frame, _ in self._frames]
        ordered = None not in decoded and all(a <= b for a, b in pairwise(decoded))
        if not guessed and not jumps and ordered:
            unique = len(set(decoded)) == len(decoded)
            return len(decoded), decoded if unique and known else None, self._seconds(decoded), 0.0
        if None not in stamps and len(stamps) == len(decoded):  # right together, if not each
            return len(decoded), None, self._seconds(sorted(stamps)), 0.0
        rate = self._rate()
        return len(decoded), None, [number / rate for number in range(len(decoded))], 0.0

    def _seconds(self, stamps: list[int]) -> list[float]:
        return [stamp * self._unit for stamp in stamps]

    def _rate(self) -> float:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else 25.0

    def _frame(self, index: int) -> Any:
        """Return the frame of a number."""
        found = None
        if self._stamps is not None:
            found = self._frame_by_stamp(index, self._stamps)
            if found is None:
                self._open()
                decoded = sum(1 for _ in self._frames)
                if decoded != len(self):
                    raise UnreadableVideoError(
                        f'it decodes to {decoded} frames, expected the {len(self)} that it has '
                        'time stamps for: encode it anew'
                    )
                self._stamps = None
                self._open()
        frame, damaged = found or self._frame_by_order(index)
        if damaged:
            raise UnreadableVideoError(f'frame {index} or one that it needs is damaged')
        return frame

    def _frame_by_order(self, index: int) -> tuple[Any, bool]:
        if 0 <= self._position - index < len(self._recent):
            return self._recent[index - self._position - 1]
        if self._position >= index:
            self._open()
        for found in self._frames:
            self._position += 1
            self._recent.append(found)
            if self._position == index:
                return found
        raise UnreadableVideoError(f'it decodes to {self._position + 1} frames, then to others')

    def _frame_by_stamp(self, index: int, stamps: list[int]) -> tuple[Any, bool] | None:
        """Return the frame of a number; None if the time stamps lead to no such frame."""
        key = bisect_right(self._keys, stamps[index], key=lambda stamp: stamp[0]) - 1
        behind = self._position < index and (
            key < 0 or self._keys[key][0] <= stamps[self._position + 1]
        )
        if behind and (found := self._advance(index, stamps)):
            return found
        for start in (key, key - 1):
            if start >= 0:
                try:
                    self._container.seek(self._keys[start][1], stream=self.stream)
                except FFmpegError:
                    break
                self._start(from_key_frame=True)
                if found := self._advance(index, stamps):
                    return found
        self._open()
        return self._advance(index, stamps)

    def _advance(self, index: int, stamps: list[int]) -> tuple[Any, bool] | None:
        """Decode up to a frame; return None where it does not come or another one is missing."""
        self._wanted[0] = stamps[index]
        for frame, damaged in self._frames:
            number = len(stamps) if frame.pts is None else bisect_left(stamps, frame.pts)
            known = number < len(stamps) and stamps[number] == frame.pts
            if self._position == -1:
                known = known and (number == 0 or frame.key_frame)
            else:
                passed = stamps[self._position + 1 : number]
                known = known and self._position < number and self._left_out.issuperset(passed)
            if not known or number > index:
                return None
            self._position = number
            if number == index:
                return frame, damaged
        return None

    def _rgb(self, frame: Any) -> NDArray[np.uint8]:
        width, height = self._size
        converted: Any = self._reformatter.reformat(
            frame,
            width,
            height,
            'rgb24',
            interpolation=Interpolation.BICUBIC,
            threads=self._num_threads,
        )
        rgb = converted.to_ndarray()
        if converted is frame:  # others may be decoded from it
            rgb = rgb.copy()
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
        return rgb if matrix is None else turn(rgb, np.frombuffer(matrix, np.int32))


# Functions, since generators of methods would keep a reader alive until Python collects cycles.


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, and an empty one at the end."""
    try:
        yield from container.demux(stream)
    except FFmpegError as error:
        raise _unreadable(error) from error
    except IndexError:  # of PyAV after the end, where a stream appeared that the header lacks
        return


def _frames(
    container: Any, stream: Any, wanted: list[float], left_out: set[int], from_key_frame: bool
) -> Iterator[tuple[Any, bool]]:
    """Yield the frames from where a file is, or from the next key frame on.

    Args:
        container: PyAV's container.
        stream: Its stream.
        wanted: The time stamp before which frames that no other one needs are left out; the list
            is read before each packet.
        left_out: Gets the time stamps of these.
        from_key_frame: Whether to start at the next key frame.

    Yields:
        A frame, and whether it or one since the last key frame is damaged.
    """
    extra = stream.codec_context.extradata or b''
    length = extra[4] % 4 + 1 if extra[:1] == b'\1' and len(extra) > 4 else 0
    damaged = False
    try:
        for packet in _packets(container, stream):
            from_key_frame = from_key_frame and not packet.is_keyframe
            early = packet.pts is not None and packet.pts < wanted[0]
            if early and stream.codec_context.name == 'h264' and not _needed(bytes(packet), length):
                left_out.add(packet.pts)
            elif not from_key_frame:
                for frame in packet.decode():  # those after a damaged one are not marked
                    damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                    yield frame, damaged
    except FFmpegError as error:
        raise _unreadable(error) from error


def _needed(packet: bytes, length: int) -> bool:
    """Return whether other frames may need that of a packet of H.264.

    Args:
        packet: Its bytes.
        length: How many of them tell the length of each unit; 0 if units begin with 0, 0, 1.
    """
    if length:
        headers, start = [], 0
        while start + length < len(packet):
            headers.append(packet[start + length])
            start += length + int.from_bytes(packet[start : start + length], 'big')
    else:
        headers = [unit[0] for unit in packet.split(b'\0\0\1')[1:] if unit]
    slices = [header for header in headers if 1 <= header % 32 <= 5]
    return not slices or any(header >> 5 for header in slices)  # nal_ref_idc


def check_frames(reader: VideoReader, thorough: bool = False) -> None:
    """Decode a video from its start, then take frames out of order and see that they are the same.

    Args:
        reader: The video.
        thorough: Whether all frames are taken. Defaults to False: ten from the first to the last.

    Raises:
        UnreadableVideoError: If a frame cannot be decoded or is another one.
    """
    count = len(reader) if thorough else min(10, len(reader))
    places = set(np.linspace(0, len(reader) - 1, count).round().astype(int).tolist())
    sums = {i: zlib.crc32(frame.data) for i, frame in enumerate(reader) if i in places}
    for place in np.random.default_rng(0).permutation(list(sums)).tolist():
        if zlib.crc32(reader[place].data) != sums[place]:
            raise UnreadableVideoError(
                f'frame {place} is another one after seeking than in a decode from the start: '
                'encode it anew'
            )


class VideoWriter:
    """Writes H.264 in MP4, each frame with its time; a context that ends with the file complete.

    Args:
        path: File to write, in place, whatever its ending.

    Raises:
        OSError: If the file cannot be written.
        ValueError: From :meth:`write`, if H.264 cannot hold frames of that size.

    Example:
        >>> import numpy as np
        >>> from mmsifa.fileio.video import VideoReader, VideoWriter
        >>> path = getfixture('tmp_path') / 'video.mp4'
        >>> with VideoWriter(path) as writer:
        ...     writer.write(np.zeros((32, 48, 3), np.uint8), 0, 0.5)
        ...     writer.write(np.ones((32, 48, 3), np.uint8), 0.5, 3)
        >>> VideoReader(path).times.tolist()
        [0.0, 0.5]
    """

    _UNIT = Fraction(1, 90000)

    def __init__(self, path: str | os.PathLike) -> None:
        self._container = av.open(os.path.abspath(path), 'w', format='mp4')
        self._stream: Any = self._container.add_stream('libx264')
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.time_base = self._UNIT
        self._durations: dict[int, int] = {}  # by time stamp

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None and self._durations:
            self._mux(self._stream.encode())
        self._container.close()
        del self._stream, self._container  # and the encoder's threads

    def write(self, image: NDArray[np.uint8], start: float, end: float) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3), RGB, of the size of the first one; H.264 has even sides, so a last odd
                row or column is left out.
            start: When it appears, in seconds.
            end: When the next one does.
        """
        height, width = (side // 2 * 2 for side in image.shape[:2])
        if not self._durations:
            self._stream.height, self._stream.width = height, width
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]))
        frame.time_base = self._UNIT
        frame.pts = round(start / self._UNIT)
        self._durations[frame.pts] = round(end / self._UNIT) - frame.pts
        try:
            packets = self._stream.encode(frame)
        except FFmpegError as error:
            raise ValueError(f'H.264 cannot hold frames of {width} x {height} pixels') from error
        self._mux(packets)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations[packet.pts]  # the encoder forgets the last one's
            self._container.mux(packet)


def turn(image: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and mirror an image as a display matrix says, to the nearest quarter.

    Args:
        image: (H, W, channels).
        matrix: The nine numbers of a video's display matrix.

    Returns:
        The image as it is shown, (H, W, channels) or (W, H, channels).
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _unreadable(error: Exception) -> UnreadableVideoError:
    text = getattr(error, 'strerror', None) or str(error)
    return UnreadableVideoError(f'FFmpeg cannot read it ({text})')
