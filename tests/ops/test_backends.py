"""Every backend that this machine has against the reference in float64, over a grid of cases."""

import itertools
import math
import random
import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmsifa.ops import BACKENDS
from mmsifa.ops.arguments import AttentionOptions

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def takes(backend, dtype=torch.float32, device=DEVICE):
    query = torch.ones(1, 1, 1, 1, 1, dtype=dtype, device=device)
    return BACKENDS[backend].unsupported_reason(query) is None


FUSED = [name for name in BACKENDS if name != 'reference']
HERE = [
    (name, device) for name in FUSED for device in {'cpu', DEVICE} if takes(name, device=device)
]


class Case(NamedTuple):
    """One point of the grid."""

    channels: int
    size: tuple[int, int]
    kernel_size: int
    dilation: int
    num_heads: int
    frames: tuple[int, int]  # clips, frames of each
    softmax: bool
    offsets: str
    memory: str

    @property
    def samples(self):
        """Return how many numbers are sampled for a clip."""
        return self.channels * math.prod(self.size) * self.frames[1] * self.kernel_size**2

    @property
    def interpreted_steps(self):
        """Return how many taps of tiles, some 50 ms each, Triton's interpreter goes through."""
        tiles = math.ceil(math.prod(self.size) / min(max(2048 // self.channels, 1), 128))
        return math.prod(self.frames) * tiles * self.kernel_size**2

    @property
    def options(self):
        scale = self.num_heads / self.channels
        return AttentionOptions(
            self.kernel_size, self.dilation, self.num_heads, scale, self.softmax
        )


GRID = (
    (1, 3, 17, 64, 128, 256, 512, 1024),
    ((1, 1), (1, 7), (7, 7), (14, 9), (28, 28), (56, 56)),
    (1, 3, 5),
    (1, 2),
    (1, 2, 4),
    ((2, 1), (1, 4), (1, 16)),
    (False, True),
    ('zero', 'fractional', 'integral', 'border', 'huge', 'nan', 'inf'),
    ('slices', 'channels-first', 'transposed'),
)
# One tile or several, whole or with a ragged end, in bands of which the last one is lower.
SMALL_SIZES, FEW_FRAMES = ((1, 1), (1, 7), (4, 4), (7, 3), (9, 15)), ((1, 1), (2, 2))
INTERPRETED_GRID = (GRID[0], SMALL_SIZES, *GRID[2:5], FEW_FRAMES, *GRID[6:])


def all_pairs(cost, most, grid=GRID):
    """Return cases in which any two values of two axes meet, as far as ``most`` cost allows."""
    draw = random.Random(0)

    def random_case(fixed):
        while True:
            case = Case(*(fixed.get(i, draw.choice(axis)) for i, axis in enumerate(grid)))
            if case.channels % case.num_heads == 0 and cost(case) <= most:
                return case

    def pairs_of(case):
        return set(itertools.combinations(enumerate(case), 2))

    def possible(pair):
        smallest = {i: axis[0] for i, axis in enumerate(grid)} | dict(pair)
        if smallest[0] % smallest[4]:  # heads without channels of their own
            smallest[0] = smallest[0] if pair[0][0] == 0 else 64
        case = Case(*(smallest[i] for i in range(len(grid))))
        return case.channels % case.num_heads == 0 and cost(case) <= most

    axes = itertools.combinations([[(i, v) for v in axis] for i, axis in enumerate(grid)], 2)
    missing = {pair for a, b in axes for pair in itertools.product(a, b) if possible(pair)}
    cases = []
    while missing:
        pair = min(missing, key=str)
        tries = [random_case(dict(pair)) for _ in range(30)]
        cases.append(max(tries, key=lambda case: (len(pairs_of(case) & missing), -cost(case))))
        missing -= pairs_of(cases[-1])
    return cases


SAMPLES = Case.samples.fget
INTERPRETED = DEVICE == 'cpu'  # Triton's kernels
CASES = dict.fromkeys(FUSED, all_pairs(SAMPLES, 10_000_000 if DEVICE == 'cpu' else 30_000_000))
CASES['mmcv'] = all_pairs(SAMPLES, 3_000_000)
if INTERPRETED:
    CASES['triton'] = all_pairs(Case.interpreted_steps.fget, 36, INTERPRETED_GRID)


@lru_cache(maxsize=1)
def inputs(case, dtype):
    """Return query, value, offset and an output's gradient in float64, exact in dtype."""
    generator = torch.Generator().manual_seed(0)
    (h, w), k = case.size, case.kernel_size
    clips, pairs = case.frames
    shape = (clips, pairs + 1, case.channels, h, w)
    frames = torch.randn(shape, generator=generator)
    d_out = torch.randn(frames[:, 1:].shape, generator=generator)
    offset = _offsets(case, (clips, pairs, 2 * k * k, h, w), generator)
    query, value = frames[:, :-1], frames[:, 1:]
    if case.memory == 'slices':
        frames = frames.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        query, value = frames[:, :-1], frames[:, 1:]
        offset = offset.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    elif case.memory == 'transposed':
        query, offset, d_out = (
            x.transpose(1, 4).contiguous().transpose(1, 4) for x in (query, offset, d_out)
        )
    return [x.to(dtype).double() for x in (query, value, offset, d_out)]  # keeps the strides


def _offsets(case, shape, generator):
    def integers(low, high):
        return torch.randint(low, high, shape, generator=generator)

    fractional = integers(-64, 64) / 32 + 1 / 64  # never on a whole pixel
    if case.offsets == 'zero':
        return torch.zeros(shape)
    if case.offsets == 'fractional':
        return fractional
    if case.offsets == 'integral':
        return integers(-2, 3)
    if case.offsets == 'border':  # samples on, just inside and just outside of every border
        k, middle = case.kernel_size, case.kernel_size // 2
        tap = torch.arange(k * k)
        place = torch.stack([tap // k, tap % k], dim=1).flatten() - middle
        rows, columns = torch.meshgrid(*map(torch.arange, case.size), indexing='ij')
        base = torch.stack([rows, columns]).repeat(k * k, 1, 1)
        base = base + case.dilation * place.view(-1, 1, 1)
        ends = torch.tensor(case.size).repeat(k * k).view(-1, 1, 1)
        target = torch.where(integers(0, 2) == 1, -1, ends) + integers(-2, 3) / 64
        target = torch.where(integers(0, 2) == 1, target, target.round())
        return target - base
    bad = {'huge': 1e30, 'nan': math.nan, 'inf': math.inf}[case.offsets]
    bad = bad * (2 * integers(0, 2) - 1)
    return torch.where(integers(0, 3) == 0, bad, fractional)


@lru_cache(maxsize=1)
def expected(case, dtype):
    query, value, offset, d_out = (x.to(DEVICE) for x in inputs(case, dtype))
    reference = BACKENDS['reference']
    out = reference.forward(query, value, offset, case.options)
    grads = reference.backward(d_out, query, value, offset, case.options)
    return [x.cpu() for x in (out, *grads)]


class FillWithNaN(TorchDispatchMode):
    """Fills what is allocated, so that a number that is never written shows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if 'empty' in func.__name__ and out.is_floating_point():
            torch.Tensor.fill_(out, math.nan)
        return out


def assert_equals_reference(backend, device, case, dtype, rtol, offset_dtype=None):
    query, value, offset, d_out = (x.to(device, dtype) for x in inputs(case, dtype))
    offset = offset.to(offset_dtype)
    run = BACKENDS[backend]
    with FillWithNaN():
        got = (
            run.forward(query, value, offset, case.options),
            *run.backward(d_out, query, value, offset, case.options),
        )
    names = ('out', 'd_query', 'd_value', 'd_offset')
    for name, actual, exact in zip(names, got, expected(case, dtype), strict=True):
        assert actual.dtype == (offset.dtype if name == 'd_offset' else dtype)
        atol = rtol * max(exact.abs().max().item(), 0.1)
        actual = actual.double().cpu()
        torch.testing.assert_close(
            actual, exact, rtol=rtol, atol=atol, msg=lambda text, name=name: f'{name}: {text}'
        )


GRID_CASES = [
    pytest.param(backend, device, case, id=f'{backend}-{device}-{"-".join(map(str, case))}')
    for backend, device in HERE
    for case in CASES[backend]
]


@pytest.mark.parametrize(('backend', 'device', 'case'), GRID_CASES)
def test_equals_the_reference(backend, device, case):
    assert_equals_reference(backend, device, case, torch.float32, rtol=2e-5)


SMALL = [case for case in CASES['cpu'] if case.samples < 100_000][:12]


IN_FLOAT64 = [name for name in BACKENDS if takes(name, torch.float64, 'cpu')]


@pytest.mark.parametrize('case', SMALL, ids=lambda case: '-'.join(map(str, case)))
@pytest.mark.parametrize('backend', [name for name in IN_FLOAT64 if name in FUSED])
def test_float64_is_exact(backend, case):
    assert_equals_reference(backend, 'cpu', case, torch.float64, rtol=1e-11)


@pytest.mark.parametrize('backend', IN_FLOAT64)
def test_float32_offsets_beside_float64_are_taken_exactly(backend):
    case = Case(6, (5, 7), 3, 1, 2, (1, 2), True, 'fractional', 'slices')
    query, value, offset, d_out = inputs(case, torch.float32)
    run, results = BACKENDS[backend], []
    for o in (offset, offset.float()):
        out = run.forward(query, value, o, case.options)
        results.append([out, *run.backward(d_out, query, value, o, case.options)])
    assert results[1][3].dtype == torch.float32
    for exact, got in zip(*results, strict=True):
        assert torch.equal(got, exact.to(got.dtype))


HALF = [
    (name, device, dtype)
    for name, device in HERE
    for dtype in (torch.bfloat16, torch.float16)
    if takes(name, dtype, device)
]


@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize(('backend', 'device', 'dtype'), HALF, ids=str)
def test_half_inputs_lose_nothing_but_the_last_rounding(backend, device, dtype, softmax):
    frames = (1, 1) if backend == 'triton' and INTERPRETED else (2, 1)
    case = Case(64, (7, 7), 3, 1, 2, frames, softmax, 'fractional', 'slices')
    assert_equals_reference(backend, device, case, dtype, rtol=torch.finfo(dtype).eps)


REFERENCE = [('reference', DEVICE, dtype) for dtype in (torch.bfloat16, torch.float16)]


@pytest.mark.parametrize(('backend', 'device', 'dtype'), HALF + REFERENCE, ids=str)
def test_float32_offsets_beside_half_features_lose_nothing(backend, device, dtype):
    """Offsets of 8 to 16 pixels, where bfloat16 has steps of 1/16, towards the middle."""
    k = 1 if backend == 'triton' and INTERPRETED else 3
    case = Case(32, (18, 18), k, 1, 1, (1, 1), False, 'zero', 'slices')
    query, value, _, d_out = inputs(case, dtype)
    towards = 2 * (torch.arange(18) < 9) - 1
    down, right = 8 + 8 * torch.rand(2, 1, 1, k * k, 18, 18)
    offset = torch.stack([down * towards[:, None], right * towards], dim=3).flatten(2, 3)
    exact = query, value, offset.double(), case.options
    expected = BACKENDS['reference'].forward(*exact)
    expected = expected, *BACKENDS['reference'].backward(d_out, *exact)

    def error(x, y):
        return ((x.double().cpu() - y).norm() / y.norm()).item()

    run = BACKENDS[backend]
    q, v, g = (x.to(device, dtype) for x in (query, value, d_out))
    ins = q, v, offset.to(device), case.options
    got = run.forward(*ins), *run.backward(g, *ins)
    assert [x.dtype for x in got] == [dtype, dtype, dtype, torch.float32]
    *of_features, of_offset = map(error, got, expected)
    assert max(of_features) < torch.finfo(dtype).eps / 2  # the last rounding alone
    assert of_offset < 1e-5
    rounded = run.forward(q, v, offset.to(device, dtype), case.options)
    assert error(rounded, expected[0]) > 10 * of_features[0]


@pytest.mark.parametrize(('backend', 'device', 'dtype'), HALF, ids=str)
def test_large_activations_of_half_precision_overflow_only_where_the_result_does(
    backend, device, dtype
):
    # 64 channels of 60: a correlation of 230,400, past float16; weights of 3600, an output of 3.9.
    query = torch.full((1, 1, 64, 4, 4), 60.0, dtype=dtype, device=device)
    value = query * torch.linspace(-1, 1, 64, dtype=dtype, device=device).view(64, 1, 1)
    offset = torch.zeros(1, 1, 2, 4, 4, dtype=dtype, device=device)
    args, options = (query, value, offset), AttentionOptions(1, 1, 1, 1e-5, False)
    exact = BACKENDS['reference'].forward(*(x.double() for x in args), options)
    out = BACKENDS[backend].forward(*args, options)
    rtol = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=rtol, atol=rtol)


# The grid again, with types in turns: an interpreter goes through some of it.
TYPES = list(itertools.product((torch.bfloat16, torch.float16), (None, torch.float32)))
HALF_GRID = [
    pytest.param('triton', DEVICE, case, *types, id='-'.join(map(str, (*case, *types))))
    for case, types in zip(CASES['triton'], itertools.cycle(TYPES), strict=False)
][:: 11 if INTERPRETED else 1]


@pytest.mark.triton
@pytest.mark.parametrize(('backend', 'device', 'case', 'dtype', 'offset_dtype'), HALF_GRID)
def test_half_inputs_equal_the_reference_over_the_grid(backend, device, case, dtype, offset_dtype):
    assert_equals_reference(backend, device, case, dtype, torch.finfo(dtype).eps, offset_dtype)


NETWORKS = [  # frames of features, channels, size: of SIFA-Net with 16, 32, 64 frames, and Swin-B
    *itertools.product((4, 8, 16), ((128, 28), (256, 14), (512, 7))),
    *itertools.product((16,), ((128, 56), (256, 28), (512, 14), (1024, 7))),
]


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(('frames', 'stage'), NETWORKS, ids=str)
def test_stages_of_networks_equal_the_reference(frames, stage, dtype):
    channels, size = stage
    case = Case(channels, (size, size), 3, 1, 1, (1, frames - 1), False, 'fractional', 'slices')
    rtol = 2e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    for offset_dtype in {dtype, torch.float32}:
        assert_equals_reference('triton', DEVICE, case, dtype, rtol, offset_dtype)


@pytest.mark.skipif(torch.__version__ < '2.10', reason='the C++ kernels need PyTorch 2.10')
def test_the_backends_that_need_no_gpu_are_here():
    assert ('cpu', 'cpu') in HERE
    # MMAction2 tells our own environment, which has Triton, from one with PyTorch alone.
    assert ('triton', DEVICE) in HERE or sys.platform != 'linux' or not find_spec('mmaction')
