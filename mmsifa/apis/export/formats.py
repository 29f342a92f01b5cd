"""The files that programs are exported to: their metadata, writing and running them."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from mmaction.models import Recognizer2D
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmsifa.datasets.pipelines import sampling_of, video_pipeline
from mmsifa.installation import __version__

OUTPUT = 'scores'
_MAX_PROTOBUF = 2**31


class Format(Protocol):
    """A kind of file."""

    name: str
    suffix: str

    def unavailable_reason(self) -> str | None:
        """Return what is missing to write and check such a file, if anything."""
        ...

    def write(self, program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
        """Write a program and text about it into one file."""

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what runs the file."""
        ...


class ONNX:
    """An ONNX file, whose operators are all standard ones."""

    name = 'onnxruntime'
    suffix = '.onnx'

    def unavailable_reason(self) -> str | None:
        """Return what is missing to write and check such a file, if anything."""
        missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if not find_spec(name)]
        if missing:
            return f'an ONNX file needs packages: pip install {" ".join(missing)}'
        return None

    def write(self, program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
        """Write a program and text about it into one file."""
        with warnings.catch_warnings(), _quiet_torchvision(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter('ignore')
            exported: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[metadata['input']],
                output_names=[OUTPUT],
            )
        exported.model.metadata_props.update(metadata)
        exported.model.producer_name = 'mmsifa'
        model = exported.model_proto
        if model.ByteSize() >= _MAX_PROTOBUF:
            raise ValueError('the network does not fit into an ONNX file, which holds up to 2 GiB')
        path.write_bytes(model.SerializeToString())

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what runs the file, on the CPU with as many threads as PyTorch."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@contextmanager
def _quiet_torchvision() -> Iterator[None]:
    """Keep PyTorch from saying that torchvision, which nothing here needs, is not installed."""
    logger = logging.getLogger('torch.onnx._internal.exporter._registration')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class AOTInductor:
    """A package of compiled code, for the kind of machine that made it."""

    name = 'AOTInductor'
    suffix = '.pt2'

    def unavailable_reason(self) -> str | None:
        """Return what is missing to write and check such a file, if anything."""
        from torch._inductor import config
        from torch._inductor.cpp_builder import get_cpp_compiler

        compilers = config.cpp.cxx if isinstance(config.cpp.cxx, tuple) else (config.cpp.cxx,)
        if any(compiler and shutil.which(compiler) for compiler in compilers):
            return None
        try:
            get_cpp_compiler()
        except Exception:  # torch has several errors for this, some of them private
            return 'an AOTInductor package needs a C++ compiler: apt-get install g++, or set CXX'
        return None

    def write(self, program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
        """Compile a program; write it and text about it into one file."""
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={'aot_inductor.metadata': metadata},
        )

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what runs the file, on the device that it was made for."""
        run = torch._inductor.aoti_load_package(str(path))
        return lambda x: run(x.contiguous())  # compiled code takes the traced strides for granted


FORMATS: dict[str, Format] = {'onnx': ONNX(), 'pt2': AOTInductor()}


def describe(
    recognizer: Any, num_frames: str, size: tuple[int, int], sides: str | None = None
) -> dict[str, str]:
    """Return what somebody who has only the file needs to know.

    Args:
        recognizer: The recognizer, with its config as ``cfg``.
        num_frames: Frames of a clip, a number or in words.
        size: Height and width of its clips.
        sides: Height and width of frames, in words, where the file takes those. Defaults to None:
            it takes clips.

    Returns:
        Text by its name.
    """
    pipeline, _ = video_pipeline(recognizer.cfg)
    sampling = sampling_of(pipeline, isinstance(recognizer, Recognizer2D))
    normalize = recognizer.data_preprocessor
    height, width = size
    known: dict[str, Any] = {
        'producer': f'mmsifa {__version__}',
        'config': Path(recognizer.cfg.filename or 'config').stem,
        'input': 'clips',
        'shape': f'videos, views, 3, {num_frames}, {height}, {width}',
        'dtype': 'float32',
        'channels': 'BGR' if getattr(normalize, 'to_rgb', False) else 'RGB',
        'sampling': sampling,
        'multi_class': recognizer.cls_head.multi_class,
        'average_clips': recognizer.cls_head.average_clips,
        'test_pipeline': json.dumps(pipeline, default=str, allow_nan=False),
    }
    if sampling.interval is not None:
        known |= dict(clip_len=sampling.frames, frame_interval=sampling.interval)
    if sides:
        shape = f'videos, views, {num_frames}, {sides}, 3'
        known |= dict(input='frames', shape=shape, dtype='uint8', channels='RGB')
    elif getattr(normalize, '_enable_normalize', False):
        known['mean'] = json.dumps(normalize.mean.flatten().tolist())
        known['std'] = json.dumps(normalize.std.flatten().tolist())
    return {key: str(value) for key, value in known.items()}
