"""Videos with the predictions drawn on them."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmsifa.apis.prediction.scores import VideoResult
from mmsifa.apis.prediction.timeline import spans
from mmsifa.datasets.reading_process import ReadingProcess
from mmsifa.fileio.atomic_write import unfinished_file
from mmsifa.fileio.video import VideoReader, VideoWriter

SMALLEST = 320  # smaller frames are enlarged, or the text would not fit
LARGEST = 4096  # but to no more than players show


def annotate_video(
    path: str | Path,
    result: VideoResult,
    names: Sequence[str],
    on_frames: Callable[[int, int], None] | None = None,
) -> None:
    """Write a video with the five best classes and their scores on every frame.

    It is H.264 in MP4, without sound, each frame at its time; frames of a short side below 320
    pixels are enlarged by a whole number, to a long side of 4096 at most. With windows each frame
    shows the prediction of the nearest one. One frame at a time is in memory.

    Args:
        path: MP4 file to write; it appears when it is complete.
        result: The result of the video, with predictions.
        names: Names of the classes.
        on_frames: Called with the number of frames written and of all. Defaults to None.

    Raises:
        UnreadableVideoError: If the video fails to decode between the frames that the model
            has seen.
    """
    path = Path(path)
    captions = [
        [(names[index], score) for index, score in prediction.top()]
        for prediction in result.predictions
    ]
    starts = [0.0]
    if result.predictions[0].window:
        starts += [start for start, _ in spans(result.predictions)][1:]
    with unfinished_file(path) as file:
        unfinished = Path(file.name)
        with closing(
            ReadingProcess(_annotate, result.video, unfinished, starts, captions)
        ) as worker:
            for written, total in worker:
                if on_frames:
                    on_frames(written, total)
        unfinished.replace(path)


def _annotate(
    video: str, path: Path, starts: list[float], captions: list[list[tuple[str, float]]]
) -> Iterator[tuple[int, int]]:
    """Write the video and yield, now and then, how many frames are written and how many there are.

    From each start, in seconds, on it has the caption of the same number.
    """
    reader = VideoReader(video)
    ends = [*reader.times[1:], reader.duration]
    current, panel = -1, np.zeros((0, 0, 4))
    with VideoWriter(path) as writer:
        for number, (frame, start, end) in enumerate(zip(reader, reader.times, ends, strict=True)):
            short, long = sorted(frame.shape[:2])
            scale = max(1, min(math.ceil(SMALLEST / short), LARGEST // long))
            size = frame.shape[1] * scale, frame.shape[0] * scale
            if scale > 1:
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
            shown = bisect_right(starts, start + 1e-6) - 1
            if shown != current:
                current, panel = shown, _panel(captions[shown], size)
            h, w = panel.shape[:2]
            corner = frame[size[1] - h :, :w]
            alpha = panel[..., 3:] / 255
            corner[:] = (corner * (1 - alpha) + panel[..., :3] * alpha).astype(np.uint8)
            writer.write(frame, start, end)
            if number % 30 == 29:
                yield number + 1, len(reader)
    yield len(reader), len(reader)


def _panel(caption: list[tuple[str, float]], size: tuple[int, int]) -> np.ndarray:
    """Return classes and scores in white on a dark ground, RGBA, (h, w, 4), within a size."""
    lines = [f'{100 * score:5.1f} %  {name}' for name, score in caption]
    file = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSansMono.ttf')
    pixels = max(11, min(size) // 20)
    while True:
        font = ImageFont.truetype(str(file), pixels)
        width = max(font.getlength(line) for line in lines)
        if width <= size[0] - pixels or pixels <= 11:
            break
        pixels -= 1
    letters = int((size[0] - pixels) / font.getlength('0'))
    lines = [line if len(line) <= letters else f'{line[: letters - 1]}…' for line in lines]
    row, margin = math.ceil(pixels * 1.3), pixels // 2
    shape = min(size[0], math.ceil(width) + 2 * margin), min(size[1], row * len(lines) + margin)
    image = Image.new('RGBA', shape, (0, 0, 0, 160))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((margin, margin // 2 + number * row), line, (255, 255, 255, 255), font)
    return np.asarray(image, np.float32)
