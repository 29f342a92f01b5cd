"""What a recognizer needs: seconds and memory of a forward pass and of a training step."""

import copy
import ctypes
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmsifa.apis import load_config
from mmsifa.apis.analysis.complexity import (
    build_untrained,
    count_multiply_adds,
    count_parameters,
    scores,
)
from mmsifa.datasets.pipelines import clip_of, views_of
from mmsifa.models.sifa_block import OffsetConv

DTYPES = ('float32', 'bfloat16')
PASSES = ('forward', 'training step')


class MeasurementError(RuntimeError):
    """What could not be built or run, with the reason in a sentence."""


class MeasuredNetwork:
    """A recognizer with random weights and a batch of random clips, ready to be timed.

    Offsets are predicted by small random weights, so that taps lie between pixels as after
    training. The learning rate is small, so that values stay about as they are.

    Args:
        config: The recognizer's config. Its optimizer, gradient clipping and parameter groups are
            used, SGD with momentum where it has none; its mixed precision and its accumulation of
            gradients are not.
        shape: Of a clip, as its pipeline gives it.
        device: Where it runs.
        dtype: ``'float32'``, or ``'bfloat16'`` for autocast.
        batch_size: Clips of a batch.

    Example:
        >>> from mmsifa.apis.analysis import MeasuredNetwork, clip_of
        >>> from mmsifa.apis import load_config
        >>> config = load_config('sifa_tiny_motion')
        >>> network = MeasuredNetwork(config, clip_of(config, side=32).shape)
        >>> network.forward()
        >>> network.training_step()
    """

    def __init__(
        self,
        config: Config,
        shape: tuple[int, ...],
        device: str = 'cpu',
        dtype: str = 'float32',
        batch_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.model: Any = build_untrained(config).to(self.device)
        for module in self.model.modules():
            if isinstance(module, OffsetConv):
                nn.init.normal_(module.weight, std=0.03)
        rng = np.random.default_rng(0)
        self.batch = {
            'inputs': [
                torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
                for _ in range(batch_size)
            ],
            'data_samples': [ActionDataSample().set_gt_label(0) for _ in range(batch_size)],
        }
        self.optimizer_cfg = copy.deepcopy(
            config.get('optim_wrapper', {}).get('optimizer', dict(type='SGD', momentum=0.9))
        )
        self._wrapper_cfg = {
            **copy.deepcopy(config.get('optim_wrapper', {})),
            'type': 'OptimWrapper' if dtype == 'float32' else 'AmpOptimWrapper',
            'optimizer': {**self.optimizer_cfg, 'lr': 1e-4},
        }
        for key in ('dtype', 'loss_scale', 'accumulative_counts'):
            self._wrapper_cfg.pop(key, None)
        if dtype != 'float32':
            self._wrapper_cfg.update(dtype=dtype, loss_scale=1.0)
        self._wrapper: Any = None

    def forward(self) -> None:
        """Run the forward pass of a batch, from its pixels to its scores."""
        self.model.eval()
        amp = (
            nullcontext()
            if self.dtype == 'float32'
            else torch.autocast(self.device.type, getattr(torch, self.dtype))
        )
        with torch.no_grad(), amp:
            scores(self.model, self.model.data_preprocessor(self.batch, training=False)['inputs'])
        self._synchronize()

    def training_step(self) -> None:
        """Run forward pass, loss, backward pass and the optimizer's step on a batch."""
        self.model.train()
        if self._wrapper is None:
            self._wrapper = build_optim_wrapper(self.model, Config(self._wrapper_cfg)._cfg_dict)
        self.model.train_step(copy.deepcopy(self.batch), self._wrapper)
        self._wrapper.zero_grad()
        self._synchronize()

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process ever had, in bytes.

    Args:
        device: On a GPU, what PyTorch allocated there; on a CPU, resident memory.

    Raises:
        MeasurementError: If the system does not tell, as Windows.
    """
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError as error:
        raise MeasurementError('this system does not tell the peak of resident memory') from error
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class MeasuringProcess:
    """A process of its own: what it holds and what kills it concern nobody else.

    Args:
        device: The device that its functions use.
    """

    def __init__(self, device: str) -> None:
        # A fork server imports PyTorch once for all; CUDA does not survive a fork.
        can_fork = 'forkserver' in multiprocessing.get_all_start_methods() and device == 'cpu'
        context = multiprocessing.get_context('forkserver' if can_fork else 'spawn')
        if can_fork:
            context.set_forkserver_preload([__name__])  # type: ignore[attr-defined]
        self._pool = ProcessPoolExecutor(1, mp_context=context)

    def __call__(self, function: Callable, *args) -> Any:
        """Call a function in the process.

        Raises:
            MeasurementError: If it fails, or the process is killed.
        """
        try:
            return self._pool.submit(_call, function, *args).result()
        except BrokenProcessPool:
            reason = 'its process was killed, which is how a lack of memory mostly ends'
            raise MeasurementError(reason) from None

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()

    def __enter__(self) -> 'MeasuringProcess':
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _call(function: Callable, *args) -> Any:
    """Call a function; what it raises becomes a sentence, which can go to another process."""
    MMLogger.get_current_instance().setLevel('ERROR')
    try:
        return function(*args)
    except Exception as error:
        lines = str(error).strip().splitlines() or ['no reason given']
        raise MeasurementError(f'{type(error).__name__}: {lines[0]}') from None


def describe(name: str, side: int | None) -> dict:
    """Say what a config's recognizer is and count what it costs; the first task of a worker.

    Args:
        name: The config, as :func:`mmsifa.apis.load_config` takes it.
        side: Height and width of the frames. Defaults to those of the config.

    Returns:
        Clip, test views, parameters and multiply-adds, ready for JSON.
    """
    config = load_config(name)
    clip = clip_of(config, side)
    model = build_untrained(config).eval()
    parameters = count_parameters(model)
    try:
        counts = count_multiply_adds(model.to('meta'), clip)
    except (NotImplementedError, RuntimeError):  # a network that looks at values has to compute
        counts = count_multiply_adds(build_untrained(config).eval(), clip)
    return {
        'config': name,
        'backbone': config.model.backbone.type,
        'input': list(clip.shape),
        'clip': f'{clip.sampling}, {clip.height} x {clip.width}',
        'test_views': views_of(config),
        'parameters': parameters,
        'multiply_adds': counts,
    }


_network: MeasuredNetwork | None = None  # of this worker
_memory_before = 0


def prepare(name: str, side: int | None, device: str, dtype: str, batch_size: int) -> str:
    """Build a config's network in a fresh worker.

    Args:
        name: The config, as :func:`mmsifa.apis.load_config` takes it.
        side: Height and width of the frames. Defaults to those of the config.
        device: As of :class:`MeasuredNetwork`.
        dtype: As of :class:`MeasuredNetwork`.
        batch_size: As of :class:`MeasuredNetwork`.

    Returns:
        The name of its optimizer.
    """
    global _network, _memory_before
    _memory_before = peak_memory(torch.device(device)) if device == 'cpu' else 0
    config = load_config(name)
    _network = MeasuredNetwork(config, clip_of(config, side).shape, device, dtype, batch_size)
    return _network.optimizer_cfg['type']


def run(name: str, seconds: float) -> dict[str, float]:
    """Run a pass of the worker's network again and again.

    Args:
        name: One of ``PASSES``.
        seconds: How long, at least; the pass that runs then is completed.

    Returns:
        The mean seconds of a pass, and the peak memory so far in bytes: on a CPU, what the
        process has grown by since before the network was built.
    """
    if _network is None:
        raise MeasurementError('the network was not prepared')
    call = _network.forward if name == 'forward' else _network.training_step
    start = time.perf_counter()
    passes, elapsed = 0, 0.0
    while not passes or elapsed < seconds:
        call()
        passes += 1
        elapsed = time.perf_counter() - start
    memory = peak_memory(_network.device) - _memory_before
    _give_memory_back()
    return {'seconds': elapsed / passes, 'memory': memory}


def _give_memory_back() -> None:
    """Leave what is free within this process to the others, whose turn comes next."""
    if _network is not None and _network.device.type == 'cuda':
        torch.cuda.empty_cache()
    elif sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
        if trim is not None:
            trim(0)
