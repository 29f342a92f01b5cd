"""The op with random arguments, right ones and wrong ones, against the reference.

``pytest tests/fuzz --hypothesis-profile=long`` gives a hundred times as many, ``short`` a fifth.
"""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsifa.ops import BACKENDS, inter_frame_attention
from mmsifa.ops.arguments import AttentionOptions

pytestmark = pytest.mark.slow
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
randoms = st.randoms(use_true_random=False)


def examples(count: int) -> settings:
    """As many examples, the same in each run; other profiles give more, or a fifth of them."""
    profile = settings.get_current_profile_name()
    long = profile == 'long'
    return settings(
        max_examples=100 * count if long else -(-count // 5) if profile == 'short' else count,
        derandomize=not long,
        deadline=None,
        database=None,
    )


def draw(
    rng: random.Random, dtypes: Sequence[torch.dtype], small: bool = False
) -> tuple[list[torch.Tensor], AttentionOptions]:
    """Draw query, value, offset and the output's gradient, and the options."""
    torch.manual_seed(rng.random())
    dtype = rng.choice(dtypes)
    kernel_size = rng.choice((1, 1, 1, 3) if small else (1, 3, 3, 3, 5, 7))
    channels = rng.choice((1, 2, 3, 8, 16, 17, 31, 48, 64, 100, 130, rng.randint(1, 300)))
    num_heads = rng.choice([g for g in (1, 2, 3, 4, 5, 8) if channels % g == 0])
    n, t = rng.choice((0, 1, 1, 2, 3)), rng.choice((0, 1, 1, 2, 4))
    largest = 4 if small else 12
    h, w = rng.randint(1, largest), rng.randint(1, largest)
    shape, offset_shape = (n, t, channels, h, w), (n, t, 2 * kernel_size**2, h, w)
    tensors = [lay_out(rng, torch.randn, shape, dtype) for _ in range(3)]
    offset = rng.choice((whole, fractional, wide, any_bits))
    tensors.insert(2, lay_out(rng, offset, offset_shape, dtype))
    scale = rng.choice((1 / channels, rng.uniform(-2, 2)))
    dilation, softmax = rng.choice((1, 1, 2, 3)), rng.random() < 0.5
    return tensors, AttentionOptions(kernel_size, dilation, num_heads, scale, softmax)


def whole(shape: tuple[int, ...]) -> torch.Tensor:
    """Offsets of whole pixels, so that samples lie on pixels and borders."""
    return torch.randint(-4, 5, shape).float()


def fractional(shape: tuple[int, ...]) -> torch.Tensor:
    """Offsets of a pixel or so."""
    return torch.randn(shape)


def wide(shape: tuple[int, ...]) -> torch.Tensor:
    """Offsets that lead out of the frame more often than not."""
    return torch.randn(shape) * 10.0 ** torch.randint(0, 38, shape)


def any_bits(shape: tuple[int, ...]) -> torch.Tensor:
    """Anything that 32 bits can be: NaN, infinities, denormals."""
    return torch.randint(-(2**31), 2**31, shape).to(torch.int32).view(torch.float32)


def lay_out(rng: random.Random, make, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor of ``shape`` with one of the memory formats that users have."""
    n, t, c, h, w = shape
    layouts: dict[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]] = {
        (n, t, h, w, c): lambda x: x.permute(0, 1, 4, 2, 3),  # channels last
        (n, t + 1, h, w, c): lambda x: x.permute(0, 1, 4, 2, 3)[:, 1:],  # frames of a clip
        (n, t, c, h, w): lambda x: x,
        (w, h, c, t, n): lambda x: x.permute(4, 3, 2, 1, 0),
        (n, 2 * t, h, 2 * w, c): lambda x: x.permute(0, 1, 4, 2, 3)[:, ::2, :, :, ::2],
        (n, 1, 1, h, 1): lambda x: x.expand(shape),
    }
    size, view = rng.choice(list(layouts.items()))
    return view(make(size).to(dtype))


def call(
    backend, tensors: list[torch.Tensor], options: AttentionOptions
) -> tuple[torch.Tensor, ...]:
    """Run forward and backward pass; every backend computes positions in the same precision."""
    query, value, offset, d_out = tensors
    out = backend.forward(query, value, offset, options)
    return out, *backend.backward(d_out, query, value, offset, options)


def compare(
    got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], score: float
) -> None:
    """Compare the results of two backends, which may cancel numbers of the size of ``score``."""
    rtol = {torch.float64: 1e-9, torch.float32: 1e-4}.get(got[0].dtype, 2e-2)
    names = ('out', 'd_query', 'd_value', 'd_offset')[: len(got)]
    for name, x, y in zip(names, got, expected, strict=True):
        atol = rtol * max(1e-2, 1e-2 * score, y.abs().max().item()) if y.numel() else 0
        try:
            torch.testing.assert_close(x, y, rtol=rtol, atol=atol)
        except AssertionError as error:
            raise AssertionError(f'{name}: {error}') from None


def agree(backend: str, device: str, count: int, small: bool = False) -> None:
    """Compare random calls of a backend, of the types that it takes, with the reference."""
    queries = [torch.ones(1, 1, 1, 1, 1, dtype=dtype, device=device) for dtype in DTYPES]
    reasons = {query.dtype: BACKENDS[backend].unsupported_reason(query) for query in queries}
    dtypes = [dtype for dtype, reason in reasons.items() if reason is None]
    assert dtypes, reasons[torch.float32]

    @examples(count)
    @given(randoms)
    def compare_a_call(rng: random.Random) -> None:
        tensors, options = draw(rng, dtypes, small)
        tensors = [tensor.to(device) for tensor in tensors]
        score = abs(options.scale) * tensors[0].shape[2] / options.num_heads  # of numbers near one
        results = call(BACKENDS[backend], tensors, options)
        compare(results, call(BACKENDS['reference'], tensors, options), score)

    compare_a_call()


def test_calls_of_cpu_agree_with_the_reference():
    agree('cpu', 'cpu', 300)


@pytest.mark.no_gpu
def test_calls_of_interpreted_triton_agree_with_the_reference():
    pytest.importorskip('triton')
    agree('triton', 'cpu', 12, small=True)


@pytest.mark.gpu
def test_calls_of_triton_agree_with_the_reference():
    agree('triton', 'cuda', 300)


WRONG: dict[str, tuple] = {
    'kernel_size': (0, -1, 2, 5, True, 3.0, '3', None, 10**9 + 1),
    'dilation': (0, -3, 1.5, False, None, '1', 2**40),
    'num_heads': (0, -1, 7, 10**6, True, 2.0, None, '1'),
    'scale': (float('nan'), float('inf'), '1', 1j, [1.0], None, True, 10**400),
    'softmax': (None, 0, 1, 'yes', True),
    'backend': ('', 'cuda', 'no such', 3, 'cpu', 'reference', None),
}


@examples(200)
@given(randoms)
def test_wrong_arguments_are_refused_or_computed_right(rng):
    tensors, options = draw(rng, DTYPES[:3])
    named: dict[str, Any] = dict(zip(('query', 'value', 'offset'), tensors, strict=False))
    named |= options._asdict()
    described = f'{tuple(tensors[0].shape)} {tensors[0].dtype}'
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        name = rng.choice([*WRONG, 'query', 'value', 'offset'])
        if name in WRONG:
            named[name] = rng.choice(WRONG[name])
        else:
            named[name] = wrong_tensor(named[name], rng)
        described += f', {name} {str(named[name])[:60]!r}'
    try:
        out = inter_frame_attention(**named)
    except ValueError:
        return
    except RuntimeError as error:
        if named.get('backend') in BACKENDS:
            return
        raise AssertionError(f'{described}: {type(error).__name__}: {error}') from error
    except Exception as error:
        raise AssertionError(f'{described}: {type(error).__name__}: {error}') from error
    if out.device.type == 'meta':
        return
    expected = inter_frame_attention(**{**named, 'backend': 'reference'})
    query = named['query']
    scale = named['scale'] if named['scale'] is not None else 1.0
    score = abs(scale) * query.shape[2] / named['num_heads']
    try:
        compare((out,), (expected,), score)
    except AssertionError as error:
        raise AssertionError(f'{described}: {error}') from error


def wrong_tensor(tensor: Any, rng: random.Random) -> Any:
    """Return a tensor of another shape, type or device, or none at all."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_meta:
        return tensor
    others: list[Callable[[], Any]] = [
        lambda: None,
        tensor.tolist,
        lambda: tensor[None],
        lambda: tensor.squeeze(),
        lambda: tensor[:, :, :0],
        lambda: tensor[:, :, :-1],
        lambda: tensor[..., :-1],
        lambda: torch.cat([tensor, tensor], 1),
        lambda: tensor.to('meta'),
        lambda: tensor.clone().requires_grad_(tensor.is_floating_point()),
        tensor.to_sparse,
        tensor.tolist().copy,
        *(functools.partial(tensor.to, dtype) for dtype in OTHER_TYPES),
    ]
    return rng.choice(others)()


OTHER_TYPES = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)
