"""Recognizers as files that run without mmsifa, checked against PyTorch."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmaction.models import Recognizer2D, SwinTransformer3D
from mmaction.models.backbones.swin import compute_mask
from torch import Tensor
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

import mmsifa
from mmsifa.analysis.clips import frame_size
from mmsifa.atomic_write import write_atomically
from mmsifa.export.clips import Sample, Sampler
from mmsifa.export.formats import FORMATS
from mmsifa.export.preprocess import Preprocess, frame_steps
from mmsifa.export.scorer import Scorer

ROUNDS = 5  # of timing
_MAX_SIDE = 16384


class ExportError(Exception):
    """An exported network that does not compute what the recognizer does."""


@dataclass
class Comparison:
    """How an exported network compares with the recognizer.

    Attributes:
        differences: The largest difference of scores in each check, and that as a share of the
            largest score, by the check's name.
        milliseconds: Median time of one clip of a video, of the recognizer and of the file.
        num_bytes: Size of the file.
    """

    differences: dict[str, tuple[float, float]]
    milliseconds: tuple[float, float]
    num_bytes: int


class Exporter:
    """Exports a recognizer to a file; everything that can be checked before is checked first.

    Args:
        recognizer: A ``Recognizer2D`` or ``Recognizer3D`` in test mode, with its config as ``cfg``
            and on the device where the file shall run, as
            :func:`mmsifa.apis.load_recognizer` gives it.
        file_format: ``'onnx'`` or ``'pt2'``. Defaults to ``'onnx'``.
        with_preprocess: Whether the file takes frames as they were decoded, of any size, instead
            of normalized clips. Defaults to False.
        dynamic_frames: Whether it takes clips of any length that the network takes. Defaults to
            False: those of the test pipeline.
        videos: Video files to compare it on. Defaults to none: frames that are made.
        size: Height and width of the frames, where the test pipeline crops nothing. Defaults to
            those of the first video.

    Raises:
        ValueError: If that cannot be exported.

    Example:
        >>> from mmaction.apis import init_recognizer
        >>> from mmsifa.apis import load_config
        >>> model = init_recognizer(load_config('sifa_tiny_motion'), device='cpu')
        >>> Exporter(model, size=(64, 64)).metadata['shape']
        'videos, views, 3, 16, 64, 64'
    """

    def __init__(
        self,
        recognizer: Any,
        file_format: str = 'onnx',
        with_preprocess: bool = False,
        dynamic_frames: bool = False,
        videos: Sequence[str] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        self.format = FORMATS[file_format]
        reason = self.format.unavailable_reason()
        if reason:
            raise ValueError(reason)
        pipeline = recognizer.cfg.test_pipeline
        preprocess = None
        if with_preprocess:
            preprocess = Preprocess(pipeline, recognizer.data_preprocessor)
        self.device = next(recognizer.parameters()).device
        self.scorer = Scorer(recognizer, preprocess).eval().to(self.device)
        self.dynamic_frames = dynamic_frames
        self.sampler = Sampler(recognizer)
        fixed_size = frame_size(frame_steps(pipeline))
        self.crops = fixed_size is not None
        self.videos = list(videos)
        self.frames = [self.sampler.video(path) for path in videos]
        size = fixed_size or size or (self.frames[0].shape[2:4] if videos else None)
        if size is None:
            raise ValueError(
                "the test pipeline crops nothing, so that the frames' size is not known: give a "
                'video or the size'
            )
        self.size = size
        if not videos:
            larger = (size[0] * 5 // 4, size[1] * 5 // 3) if self.crops else size
            self.frames = [self.sampler.generated(larger)]
        if dynamic_frames:
            self._check_dynamic_frames(recognizer)
        self.metadata = self._describe(recognizer)

    @property
    def _tubelet(self) -> int:
        """Frames by whose multiples clips may be longer."""
        backbone = self.scorer.recognizer.backbone
        return getattr(backbone, 'tubelet_size', 1)

    def _check_dynamic_frames(self, recognizer: Any) -> None:
        name = type(recognizer.backbone).__name__
        if isinstance(recognizer, Recognizer2D):
            raise ValueError(
                f'a Recognizer2D takes a fixed number of frames, here {self.sampler.num_frames}; '
                'the number of views is dynamic'
            )
        if isinstance(recognizer.backbone, SwinTransformer3D):
            raise ValueError(
                f'{name} can only be exported for clips of one length, by which it computes the '
                'masks of its windows'
            )
        clips = torch.zeros(1, 1, 3, 2 * self.sampler.num_frames, *self.size, device=self.device)
        try:
            with torch.no_grad():
                Scorer(recognizer)(clips)
        except Exception as error:
            raise ValueError(
                f'{name} takes only clips of {self.sampler.num_frames} frames, with twice as many '
                f'it failed: {error}'
            ) from error

    def _describe(self, recognizer: Any) -> dict[str, str]:
        """Return what somebody who has only the file needs to know."""
        frames = self.sampler.num_frames
        num_frames = f'{self._tubelet}*tubelets' if self.dynamic_frames else str(frames)
        height, width = self.size
        normalize = recognizer.data_preprocessor
        known: dict[str, Any] = {
            'producer': f'mmsifa {mmsifa.__version__}',
            'config': Path(recognizer.cfg.filename or 'config').stem,
            'input': 'frames' if self.scorer.preprocess else 'clips',
            'shape': f'videos, views, 3, {num_frames}, {height}, {width}',
            'dtype': 'float32',
            'channels': 'BGR' if getattr(normalize, 'to_rgb', False) else 'RGB',
            'clip_len': frames,
            'frame_interval': self.sampler.sampling.get('frame_interval', 1),
            'average_clips': recognizer.cls_head.average_clips,
            'test_pipeline': json.dumps(list(recognizer.cfg.test_pipeline), default=str),
        }
        if self.scorer.preprocess:
            sides = 'height, width' if self.crops else f'{height}, {width}'
            shape = f'videos, views, {num_frames}, {sides}, 3'
            known |= dict(shape=shape, dtype='uint8', channels='RGB')
        if getattr(normalize, '_enable_normalize', False):
            known['mean'] = json.dumps(normalize.mean.flatten().tolist())
            known['std'] = json.dumps(normalize.std.flatten().tolist())
        return {key: str(value) for key, value in known.items()}

    def export(
        self,
        out: str | Path,
        tolerance: float = 1e-4,
        classes: Sequence[str] | None = None,
        report: Callable[[str], None] = lambda step: None,
    ) -> Comparison:
        """Write the file, once it was found to compute what the recognizer does.

        Args:
            out: The file.
            tolerance: Largest difference of scores, as a share of a video's largest score.
            classes: Names of the classes, for the metadata. Defaults to None.
            report: Called with what is done next.

        Returns:
            How it compares.

        Raises:
            ExportError: If a score differs by more, or the network cannot be traced; there is no
                new file then.
        """
        if classes is not None:
            self.metadata['classes'] = json.dumps(list(classes))
        report('tracing the network')
        program = self._trace()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f'network{self.format.suffix}')
            report(f'writing for {self.format.name}')
            try:
                self.format.write(program, file, self.metadata)
            except Exception as error:  # the compilers have many kinds
                raise ExportError(
                    f'{self.format.name} cannot take the network: {_first_line(error)}'
                ) from error
            report('comparing with PyTorch')
            run = self.format.load(file)
            differences = {name: self._compare(run, s) for name, s in self._checks()}
            name, (_, share) = max(differences.items(), key=lambda item: item[1][1])
            if not share <= tolerance:
                raise ExportError(
                    f'{self.format.name} and PyTorch differ by {share:.1e} of the largest score '
                    f'on {name}, which is more than the tolerance of {tolerance:.1e}'
                )
            report('timing')
            milliseconds = self._time(run)
            content = file.read_bytes()
        write_atomically(out, content)
        return Comparison(differences, milliseconds, len(content))

    def _input(self, sample: Sample) -> Tensor:
        return (sample.frames if self.scorer.preprocess else sample.clips).to(self.device)

    def _trace(self) -> torch.export.ExportedProgram:
        frames = self.sampler.num_frames
        if self.dynamic_frames:
            frames = 6 * self._tubelet  # with 1 anywhere the trace would be of that length alone
        length = self._tubelet * Dim('tubelets', min=2) if self.dynamic_frames else None
        dims: dict[int, Any] = {0: Dim('videos'), 1: Dim('views')}
        if self.scorer.preprocess:
            height, width = (240, 320) if self.crops else self.size
            example = torch.zeros(2, 2, frames, height, width, 3, dtype=torch.uint8)
            dims[2] = length
            if self.crops:
                dims |= {i: Dim(side, max=_MAX_SIDE) for i, side in ((3, 'height'), (4, 'width'))}
        else:
            example = torch.zeros(2, 2, 3, frames, *self.size)
            dims[3] = length
        dims = {axis: dim for axis, dim in dims.items() if dim is not None}
        try:
            # Of the fused kinds of attention the layout of memory would be traced as well.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                return torch.export.export(
                    self.scorer, (example.to(self.device),), dynamic_shapes=(dims,), strict=False
                )
        except Exception as error:
            name = type(self.scorer.recognizer.backbone).__name__
            raise ExportError(f'torch.export cannot trace {name}: {_first_line(error)}') from error
        finally:
            compute_mask.cache_clear()  # it keeps what was traced, which is no mask to compute with

    def _checks(self) -> list[tuple[str, Sample]]:
        """Return the samples to compare on; none has the traced numbers of videos and views."""
        sources = [Path(path).name for path in self.videos] or ['generated frames']
        samples = [self.sampler.sample(frames) for frames in self.frames]
        checks = list(zip(sources, samples, strict=True))
        first = self.frames[0][:1]
        turned = [first, first[:, :, ::-1].copy(), first[:, ::-1].copy()]
        batch = [self.sampler.sample(frames) for frames in turned]
        checks.append(
            ('a batch of 3', Sample(*(torch.cat(parts) for parts in zip(*batch, strict=True))))
        )
        if self.dynamic_frames:
            longer = Sampler(self.scorer.recognizer, frame_factor=2)
            frames = np.concatenate([first, first[:, ::-1]], axis=1)
            checks.append(('clips of twice the length', longer.sample(frames)))
        if self.scorer.preprocess and self.crops:
            frames = first.swapaxes(2, 3)[:, :, : -max(1, first.shape[3] // 16)].copy()
            checks.append(('frames of another size', self.sampler.sample(frames)))
        return checks

    def _compare(self, run: Callable[[Tensor], Tensor], sample: Sample) -> tuple[float, float]:
        expected = sample.scores.cpu()
        with torch.no_grad():
            difference = (run(self._input(sample)).cpu() - expected).abs().flatten(1).amax(dim=1)
        share = difference / expected.abs().flatten(1).amax(dim=1)
        return difference.max().item(), share.max().item()

    def _time(self, run: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Return the median milliseconds of PyTorch and of the file, taken in turns."""
        clip = self._input(self.sampler.sample(self.frames[0][:1]))[:, :1]
        taken: list[list[float]] = [[], []]
        with torch.no_grad():
            functions: list[Callable[[Tensor], Tensor]] = [self.scorer, run]
            for _ in range(ROUNDS + 1):
                for function, times in zip(functions, taken, strict=True):
                    start = time.perf_counter()
                    function(clip).cpu()
                    times.append(1000 * (time.perf_counter() - start))
        own, other = (median(times[1:]) for times in taken)  # the first one warms up
        return own, other


def _first_line(error: Exception) -> str:
    root = error.__cause__ or error  # the exporter's own message is advice on how to report it
    line = re.sub(r'\x1b\[\d*m', '', str(root)).strip().partition('\n')[0]
    return line or type(root).__name__


def check_writable(out: str | Path, suffix: str) -> None:
    """Raise ``ValueError`` if a file of this suffix cannot be made there."""
    out = Path(out)
    if out.suffix != suffix:
        raise ValueError(f'{out} must end in {suffix}')
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f'{out} cannot be written: a folder is there, or its folder is read-only')
