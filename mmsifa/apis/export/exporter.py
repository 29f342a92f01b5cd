"""Recognizers as files that run without mmsifa, checked against PyTorch."""

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmaction.models import Recognizer2D, SwinTransformer3D
from mmaction.models.backbones.swin import compute_mask
from torch import Tensor
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmsifa.apis.export.comparison import (
    Comparison,
    Sample,
    Sampler,
    difference,
    is_telling,
    make_checks,
    measure,
)
from mmsifa.apis.export.formats import FORMATS, describe
from mmsifa.apis.export.scorer import Preprocess, Scorer
from mmsifa.datasets.pipelines import frame_size
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.ops.exportable import Exportable

TOLERANCE = 1e-3  # a SIFA-Net-50 in PyTorch was up to 4e-4 off itself in float64
_MAX_SIDE = 16384


class ExportError(Exception):
    """A network cannot be traced, written or run as a file, or its scores differ there."""


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
        UnreadableVideoError: If a video cannot be read.
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
        self.sampler = Sampler(recognizer)
        preprocess = None
        if with_preprocess:
            preprocess = Preprocess(self.sampler.pipeline, recognizer.data_preprocessor)
        self.device = next(recognizer.parameters()).device
        self.scorer = Scorer(recognizer, preprocess).eval().to(self.device)
        self.tubelet = getattr(recognizer.backbone, 'tubelet_size', 1)
        self.dynamic_frames = dynamic_frames
        self.videos = list(videos)
        self._take_frames(size)
        if dynamic_frames:
            self._check_dynamic_frames(recognizer)
        num_frames = str(self.sampler.num_frames)
        if dynamic_frames:
            num_frames = f'{self.tubelet}*tubelets' if self.tubelet > 1 else 'frames'
        sides = 'height, width' if self.crops else '{}, {}'.format(*self.size)
        self.metadata = describe(recognizer, num_frames, self.size, sides if preprocess else None)

    def _take_frames(self, size: tuple[int, int] | None) -> None:
        """Read the videos, or make frames, and find out the size of clips."""
        cropped = frame_size(self.sampler.transforms)
        self.crops = cropped is not None
        if size and cropped:
            raise ValueError(
                'the test pipeline makes clips of {} x {} pixels from frames of any size: expected '
                'no size'.format(*cropped)
            )
        if size and min(size) < 1:
            raise ValueError('expected a height and width of 1 or more, got {} x {}'.format(*size))
        if not (cropped or size or self.videos):
            raise ValueError(
                "the test pipeline crops nothing, so that the frames' size is not known: give a "
                'video or the size'
            )
        larger = cropped and (cropped[0] * 5 // 4, cropped[1] * 5 // 3)
        made = [self.sampler.generated(sides) for sides in (size or larger,) if sides]
        self.frames = [self.sampler.video(path) for path in self.videos] or made
        self.size = cropped or self.sampler.clip_size((made or self.frames)[0])
        for path, frames in zip(self.videos, self.frames, strict=False):
            if (got := self.sampler.clip_size(frames)) != self.size:
                raise ValueError(
                    '{} gives clips of {} x {} pixels, but the file takes {} x {}{}'.format(
                        path, *got, *self.size, '' if cropped else ': nothing is cropped'
                    )
                )

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
                f'it failed: {_first_line(error)}'
            ) from error

    def export(
        self,
        out: str | Path,
        tolerance: float = TOLERANCE,
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
            ExportError: If a score differs by more or is NaN, or the network cannot be traced;
                there is no new file then.
        """
        if classes is not None:
            self.metadata['classes'] = json.dumps(list(classes))
        report('tracing the network')
        program = self._trace()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f'network{self.format.suffix}')
            report(f'writing for {self.format.name}')
            with _explained(f'{self.format.name} cannot take the network'):
                self.format.write(program, file, self.metadata)
            report('comparing with PyTorch')
            with _explained('PyTorch cannot score the clips'):
                checks = make_checks(
                    self.sampler,
                    self.frames,
                    self.videos,
                    longer=self.dynamic_frames,
                    other_size=self.scorer.preprocess is not None and self.crops,
                )
            scores = {name: sample.scores.cpu() for name, sample in checks.items()}
            invalid = [name for name in scores if not scores[name].isfinite().all()]
            if invalid:
                raise ExportError(
                    f'the network itself gives scores that are NaN or infinite for {invalid[0]}: '
                    'look at its weights'
                )
            run = self._load(file)
            differences = {
                name: difference(run(self._input(sample)), scores[name])
                for name, sample in checks.items()
            }
            self._refuse(differences, tolerance)
            report('timing')
            clip = self._input(self.sampler.sample(self.frames[0][:1]))[:, :1]
            own, other = measure([self.scorer, run], clip)
            content = file.read_bytes()
        write_atomically(out, content)
        telling = is_telling(torch.cat([*scores.values()]), tolerance)
        return Comparison(differences, telling, (own, other), len(content))

    def _refuse(self, differences: dict[str, tuple[float, float]], tolerance: float) -> None:
        wrong = {name: share for name, (_, share) in differences.items() if not share <= tolerance}
        if wrong:
            name = max(wrong, key=lambda name: math.inf if math.isnan(wrong[name]) else wrong[name])
            raise ExportError(
                f'{self.format.name} and PyTorch differ by {wrong[name]:.1e} of the largest score '
                f'on {name}, which is more than the tolerance of {tolerance:.1e}'
            )

    def _load(self, file: Path) -> Callable[[Tensor], Tensor]:
        """Return what runs the file."""
        cannot = f'{self.format.name} cannot run the file'
        with _explained(cannot):
            function = self.format.load(file)

        def run(x: Tensor) -> Tensor:
            with _explained(cannot), torch.no_grad():
                return function(x).cpu()

        return run

    def _input(self, sample: Sample) -> Tensor:
        return (sample.frames if self.scorer.preprocess else sample.clips).to(self.device)

    def _trace(self) -> torch.export.ExportedProgram:
        frames, length = self.sampler.num_frames, None
        if self.dynamic_frames:
            frames = 6 * self.tubelet  # with 1 anywhere the trace would be of that length alone
            length = Dim('tubelets', min=2) * self.tubelet if self.tubelet > 1 else Dim.DYNAMIC
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
        name = type(self.scorer.recognizer.backbone).__name__
        try:
            # Of the fused kinds of attention the layout of memory would be traced as well.
            with (
                _explained(f'torch.export cannot trace {name}'),
                torch.no_grad(),
                sdpa_kernel(SDPBackend.MATH),
                Exportable(),
            ):
                return torch.export.export(
                    self.scorer, (example.to(self.device),), dynamic_shapes=(dims,), strict=False
                )
        finally:
            compute_mask.cache_clear()  # it keeps what was traced, which is no mask to compute with


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Make one sentence of an error; torch and the runtimes have many kinds."""
    try:
        yield
    except Exception as error:
        raise ExportError(f'{what}: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    root = error.__cause__ or error  # the exporter's own message is advice on how to report it
    line = re.sub(r'\x1b\[\d*m', '', str(root)).strip().partition('\n')[0]
    return line or type(root).__name__
