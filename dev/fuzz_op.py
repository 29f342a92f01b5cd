"""Call a backend of inter-frame attention with random arguments and compare with the reference."""

import argparse
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=1000, help='number of calls (1000)')
    parser.add_argument('--backend', default='cpu', help='backend to call (cpu)')
    parser.add_argument('--device', default='cpu', help='device of the inputs (cpu)')
    parser.add_argument(
        '--only-call', action='store_true', help='compare nothing, to be fast under a sanitizer'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the first call (0)')
    parser.add_argument(
        '--extension', type=Path, help='file of the C++ extension, if not the installed one'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the calls; return 1 and describe the first call that went wrong, if one did."""
    args = parse_args(argv)
    if args.extension:
        use_extension(args.extension)
    from mmsifa.ops import BACKENDS

    if args.backend not in BACKENDS:
        raise SystemExit(f'--backend must be one of {list(BACKENDS)}, got {args.backend!r}')
    queries = [
        torch.ones(1, 1, 1, 1, 1, dtype=dtype, device=args.device)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    ]
    reasons = {query.dtype: BACKENDS[args.backend].unsupported_reason(query) for query in queries}
    dtypes = [dtype for dtype, reason in reasons.items() if reason is None]
    if not dtypes:
        reason = reasons[torch.float32]
        raise SystemExit(f'backend {args.backend!r} cannot run here: {reason}')
    seeds = range(args.seed, args.seed + args.calls)
    for seed in track(seeds, description=f'Calling {args.backend}'):
        tensors, options = draw(random.Random(seed), dtypes)
        tensors = [x.to(args.device) for x in tensors]
        try:
            results = call(BACKENDS[args.backend], tensors, options)
            if not args.only_call:
                num_heads, scale = options[2:4]
                score = abs(scale) * tensors[0].shape[2] / num_heads  # of numbers around one
                compare(results, call(BACKENDS['reference'], tensors, options), score)
        except Exception as error:
            described = ', '.join(f'{tuple(x.shape)} strides {x.stride()}' for x in tensors)
            print(f'--seed {seed} --calls 1: {described}, {tensors[0].dtype}, {options}: {error}')
            return 1
    done = 'went well' if args.only_call else 'agree with the reference'
    print(f'{args.calls} calls of {args.backend!r} {done}')
    return 0


def use_extension(path: Path) -> None:
    """Let ``mmsifa.ops.cpu``, not yet imported, find the extension in the file ``path``."""
    name = 'mmsifa.ops._cpu'
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f'--extension must be a compiled module, got {path}')
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(f'Calling {path}')


def draw(rng: random.Random, dtypes: list[torch.dtype]) -> tuple[list[torch.Tensor], tuple]:
    """Draw query, value, offset and the output's gradient, and the options."""
    torch.manual_seed(rng.random())
    dtype = rng.choice(dtypes)
    kernel_size = rng.choice((1, 3, 3, 3, 5, 7))
    channels = rng.choice((1, 2, 3, 8, 16, 17, 31, 48, 64, 100, 130, rng.randint(1, 300)))
    num_heads = rng.choice([g for g in (1, 2, 3, 4, 5, 8) if channels % g == 0])
    n, t = rng.choice((0, 1, 1, 2, 3)), rng.choice((0, 1, 1, 2, 4))
    h, w = rng.randint(1, 12), rng.randint(1, 12)
    shape, offset_shape = (n, t, channels, h, w), (n, t, 2 * kernel_size**2, h, w)
    tensors = [lay_out(rng, torch.randn, shape, dtype) for _ in range(3)]
    offset = rng.choice((whole, fractional, wide, any_bits))
    tensors.insert(2, lay_out(rng, offset, offset_shape, dtype))
    scale = rng.choice((1 / channels, rng.uniform(-2, 2)))
    dilation, softmax = rng.choice((1, 1, 2, 3)), rng.random() < 0.5
    from mmsifa.ops.arguments import AttentionOptions  # now, for --extension comes before mmsifa

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


def call(backend, tensors: list[torch.Tensor], options: tuple) -> tuple[torch.Tensor, ...]:
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


if __name__ == '__main__':
    raise SystemExit(main())
