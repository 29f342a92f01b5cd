"""Time inter-frame attention, its block, or a network with and without it, side by side in one run.

Writes OUT.jsonl, one line per measurement, and OUT.md, the tables made from it. With --append,
OUT.jsonl keeps the runs that it has, and OUT.md shows all of them. The command needs MMAction2; to
measure the op needs PyTorch alone, for dev/gpu_check.py.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from mmsifa import __version__
from mmsifa.fileio.text_files import table
from mmsifa.models.sifa_block import SIFA, OffsetConv
from mmsifa.ops import BACKENDS, exportable, inter_frame_attention, triton
from mmsifa.ops.arguments import AttentionOptions

# Feature frames of a clip, channels, height and width.
SHAPES = {
    f'{network}, {4 * frames} frames, {size} x {size}': (frames, channels, size)
    for network, frames, stages in (
        ('SIFA-Net', 4, ((128, 28), (256, 14), (512, 7))),
        ('SIFA-Net', 8, ((128, 28), (256, 14), (512, 7))),
        ('SIFA-Net', 16, ((128, 28), (256, 14), (512, 7))),
        ('Swin-B', 16, ((128, 56), (256, 28), (512, 14), (1024, 7))),
    )
    for channels, size in stages
}
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='where to write, without .jsonl and .md')
    parser.add_argument(
        '--only-table', action='store_true', help='make OUT.md from an OUT.jsonl that is there'
    )
    parser.add_argument('--append', action='store_true', help='keep the runs that OUT.jsonl has')
    parser.add_argument('--network', nargs='+', default=[], help='configs to time instead')
    parser.add_argument('--block', action='store_true', help='time a SIFA block instead')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (cpu)')
    parser.add_argument('--dtype', default='float32', choices=DTYPES, help='(float32)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='CPU threads')
    parser.add_argument('--clips', type=int, default=1, help='clips of a batch (1)')
    parser.add_argument('--shapes', default='', help='only shapes with this in their name')
    parser.add_argument('--rounds', type=int, default=7, help='rounds, the median counts (7)')
    parser.add_argument('--seconds', type=float, default=0.2, help='of each in a round (0.2)')
    parser.add_argument('--no-compile', action='store_true', help='leave torch.compile out')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(argv)
    lines = args.out.with_suffix('.jsonl')
    if not args.only_table:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with lines.open('a' if args.append else 'w') as file:
            for record in run(args):
                print(json.dumps(record, allow_nan=False), file=file, flush=True)
    page = make_page([json.loads(line) for line in lines.read_text().splitlines()])
    args.out.with_suffix('.md').write_text(page)
    print(page)


def run(args: argparse.Namespace) -> Iterator[dict]:
    """Measure what the command line asks for; the first record describes the machine."""
    from rich.progress import track

    torch.set_num_threads(args.threads)
    yield machine(args)
    if args.network:
        for config in track(args.network, description='Networks'):
            yield from measure(time_network, config, args)
    else:
        shapes = {name: shape for name, shape in SHAPES.items() if args.shapes in name}
        for name in track(shapes, description='Shapes'):
            yield from measure(time_block if args.block else time_op, name, args)


def machine(args: argparse.Namespace) -> dict:
    """Describe where and how the run is made."""
    from mmsifa.apis.analysis import processor_name

    return {
        'device': torch.cuda.get_device_name() if args.device == 'cuda' else processor_name(),
        'vectors': torch.backends.cpu.get_cpu_capability(),
        'threads': args.threads,
        'dtype': args.dtype,
        'clips': args.clips,
        'torch': torch.__version__,
        'mmsifa': __version__,
        'date': date.today().isoformat(),
        'rounds': args.rounds,
    }


def measure(
    contest: Callable[[str, argparse.Namespace], Iterable[tuple[str, dict[str, Callable]]]],
    subject: str,
    args: argparse.Namespace,
) -> Iterator[dict]:
    """Time the contestants of every pass in turns, so that all see the same machine."""
    clock, pause = clock_of(args.device), 1.0 if args.device == 'cuda' else 0.0
    for name, contestants in contest(subject, args):
        numbers = {}
        for contestant, run in contestants.items():
            clock(run, 1)  # compiles, fills caches
            numbers[contestant] = max(1, round(1e3 * args.seconds / (clock(run, 1) + pause)))
        times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for _ in range(args.rounds):
            for contestant, run in contestants.items():
                times[contestant].append(clock(run, numbers[contestant]))
        for contestant, rounds in times.items():
            yield {
                'subject': subject,
                'pass': name,
                'contestant': contestant,
                'ms': round(statistics.median(rounds), 4),
                'ms_of_rounds': [round(ms, 4) for ms in rounds],
            }


def clock_of(device: str) -> Callable[[Callable[[], object], int], float]:
    """Return what times so many calls on a device."""
    return gpu_milliseconds if device == 'cuda' else cpu_milliseconds


def cpu_milliseconds(run: Callable[[], object], number: int) -> float:
    """Return the mean time of so many calls one after the other."""
    timer = Timer('run()', globals={'run': run}, num_threads=torch.get_num_threads())
    return 1e3 * timer.timeit(number).mean


def gpu_milliseconds(run: Callable[[], object], number: int) -> float:
    """Return the mean time that a call takes on the GPU.

    Each finds other data in the L2 cache. Before it the GPU pauses, so that the CPU has launched
    the kernels of a call of the op when they begin.
    """
    other = torch.empty(2**28, dtype=torch.int8, device='cuda')
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(number)]
    for start, end in events:
        other.zero_()
        torch.cuda._sleep(1_000_000)  # cycles, half a millisecond or so
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.mean(start.elapsed_time(end) for start, end in events)


def time_op(
    name: str, args: argparse.Namespace
) -> Iterable[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield forward and forward + backward pass of all that compute, or bound, the op."""
    query, value, offset, d_out, options = make_inputs(name, args)
    c, dtype = query.shape[2], query.dtype
    conv = nn.Conv2d(c, c, 3, padding=1, device=args.device, dtype=dtype)
    contestants: dict[str, Callable] = {
        backend: lambda *inputs, backend=backend: inter_frame_attention(*inputs, backend=backend)
        for backend in BACKENDS
        if BACKENDS[backend].unsupported_reason(query) is None
        and backend_is_at_home(backend, query)
    }
    contestants['grid_sample'] = partial(exportable.inter_frame_attention, options=options)
    if not args.no_compile:
        contestants['grid_sample, compiled'] = torch.compile(
            contestants['grid_sample'], dynamic=False, fullgraph=True
        )
    exact = BACKENDS['reference'].forward(query.double(), value.double(), offset.double(), options)
    for contestant, run in contestants.items():  # no number for a wrong result
        error = (run(query, value, offset).double() - exact).norm() / exact.norm()
        if error > (1e-4 if dtype == torch.float32 else 5e-2):
            raise SystemExit(f'{contestant} is wrong by {error:.1e} for {name}')

    def forward(run):
        def call():
            with torch.no_grad():
                run(query, value, offset)

        return call

    def forward_and_backward(run):
        inputs = [x.detach().requires_grad_() for x in (query, value, offset)]
        return lambda: torch.autograd.grad(run(*inputs), inputs, d_out)

    def convolve():
        with torch.no_grad():
            conv(query.flatten(0, 1))

    def convolve_and_back():
        x = query.flatten(0, 1).detach().requires_grad_()
        torch.autograd.grad(conv(x), (x, conv.weight), d_out.flatten(0, 1))

    def copy_inputs():
        return query.clone(), value.clone(), offset.clone()

    passes = {key: forward(run) for key, run in contestants.items()}
    yield 'forward', passes | {'3 x 3 convolution': convolve, 'copy of the inputs': copy_inputs}
    passes = {key: forward_and_backward(run) for key, run in contestants.items()}
    yield 'forward + backward', passes | {'3 x 3 convolution': convolve_and_back}
    torch._dynamo.reset()


def make_inputs(
    name: str, args: argparse.Namespace
) -> tuple[Tensor, Tensor, Tensor, Tensor, AttentionOptions]:
    """Make query, value, offset and an output's gradient, with channels last as in a network.

    Offsets are in float32, as autocast leaves them beside features of half precision.
    """
    t, c, size = SHAPES[name]
    frames = make_frames(name, args)
    query, value = frames[:, :-1], frames[:, 1:]
    offset = torch.randn(args.clips, t - 1, size, size, 18, device=args.device)
    offset = offset.permute(0, 1, 4, 2, 3)
    options = AttentionOptions(kernel_size=3, dilation=1, num_heads=1, scale=1 / c, softmax=False)
    return query, value, offset, torch.randn_like(query), options


def make_frames(name: str, args: argparse.Namespace) -> Tensor:
    """Make features (N, T, C, H, W) with channels last."""
    t, c, size = SHAPES[name]
    factory: dict[str, Any] = dict(device=args.device, dtype=DTYPES[args.dtype])
    torch.manual_seed(0)
    return torch.randn(args.clips, t, size, size, c, **factory).permute(0, 1, 4, 2, 3)


def time_block(
    name: str, args: argparse.Namespace
) -> Iterable[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield the passes of a SIFA block, eager and fused."""
    x = make_frames(name, args)
    eager = SIFA(x.shape[2]).to(args.device)
    nn.init.normal_(eager.conv_offset.weight, std=0.03)  # offsets as after training
    blocks = {'eager': eager}
    if not args.no_compile:
        blocks['fused'] = copy.deepcopy(eager)
        blocks['fused'].fuse = True

    def forward(block):
        def call():
            with torch.no_grad():
                block(x)

        return call

    def forward_and_backward(block):
        inputs = x.detach().requires_grad_(), block.conv_offset.weight
        return lambda: torch.autograd.grad(block(inputs[0]), inputs, x)

    yield 'block, forward', {key: forward(block) for key, block in blocks.items()}
    passes = {key: forward_and_backward(block) for key, block in blocks.items()}
    yield 'block, forward + backward', passes


def time_backward(
    name: str, args: argparse.Namespace
) -> Iterable[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield the backward kernels alone, at the largest frame also those that add in order."""
    query, value, offset, d_out, options = make_inputs(name, args)

    def backward() -> object:
        return BACKENDS['triton'].backward(d_out, query, value, offset, options)

    def in_order() -> object:
        torch.use_deterministic_algorithms(True)
        try:
            return backward()
        finally:
            torch.use_deterministic_algorithms(False)

    largest = max(size for _, _, size in SHAPES.values())
    contestants = {'triton': backward, 'triton, in order': in_order}
    yield 'backward', contestants if query.shape[-1] == largest else {'triton': backward}


def time_tiles(
    name: str, args: argparse.Namespace, kernel: str, most: int | None = None
) -> Iterator[dict]:
    """Time a pass of the Triton kernels with each tile that it could have, the rule's first."""
    from triton.runtime import OutOfResources

    query, value, offset, d_out, options = make_inputs(name, args)
    backend, clock = BACKENDS['triton'], clock_of(args.device)

    def run() -> tuple[Tensor, ...]:
        if kernel == 'forward':
            return (backend.forward(query, value, offset, options),)
        return backend.backward(d_out, query, value, offset, options)

    channels = 1 << (query.shape[2] - 1).bit_length()
    key = (kernel, channels, query.element_size())
    expected = None
    for tile in candidate_tiles(kernel, channels)[:most]:
        result = {'subject': name, 'pass': kernel, 'channels': channels, 'tile': list(tile)}
        with mock.patch.dict(triton.TILES, {key: tile}):
            try:
                results = run()
            except OutOfResources as reason:
                yield result | {'ms': None, 'reason': str(reason)}
                continue
            expected = expected or results
            for got, exact in zip(results, expected, strict=True):
                error = (got.double() - exact.double()).norm() / exact.double().norm()
                if not error < (1e-4 if query.dtype == torch.float32 else 2e-2):
                    raise AssertionError(f'{tile} is off by {error:.1e}')
            ms = statistics.median(clock(run, 5) for _ in range(args.rounds))
        yield result | {'ms': round(ms, 5)}


def candidate_tiles(kernel: str, channels: int) -> list[triton.Tile]:
    """Return the rule's tile, then all whose threads hold 4 to 32 numbers (backward 16)."""
    rule = triton.rule(channels)
    tiles = []
    for positions in (1 << i for i in range(8)):
        for num_warps in (2, 4, 8, 16):
            held = positions * channels / (32 * num_warps)
            if 4 <= held <= (32 if kernel == 'forward' else 16) and positions * channels <= 8192:
                bands = {1, 1 if positions < 4 else 2 if positions < 16 else 4}
                tiles += [triton.Tile(positions, band, num_warps) for band in sorted(bands)]
    return [rule, *(tile for tile in tiles if tile != rule)]


def backend_is_at_home(backend: str, query: Tensor) -> bool:
    """Tell whether a backend is meant for the device, rather than only able to run there."""
    automatic_on = BACKENDS[backend].automatic_on
    return automatic_on is None or query.device.type in automatic_on


def time_network(
    config: str, args: argparse.Namespace
) -> Iterable[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield forward pass and training step of a config's recognizer with and without SIFA."""
    import numpy as np
    from mmaction.registry import MODELS
    from mmaction.structures import ActionDataSample
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmengine.registry import init_default_scope

    from mmsifa.apis import load_config
    from mmsifa.apis.analysis import clip_of

    init_default_scope('mmaction')
    cfg = load_config(config)
    with_sifa = MODELS.build({**cfg.model, 'train_cfg': None, 'test_cfg': None})
    without = copy.deepcopy(with_sifa)
    for module in list(without.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SIFA):
                setattr(module, name, nn.Identity())
    for module in with_sifa.modules():
        if isinstance(module, OffsetConv):
            nn.init.normal_(module.weight, std=0.03)  # offsets as after training
    shape = clip_of(cfg, side=224).shape
    rng = np.random.default_rng(0)
    batch = {
        'inputs': [
            torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(args.device)
            for _ in range(args.clips)
        ],
        'data_samples': [ActionDataSample().set_gt_label(0) for _ in range(args.clips)],
    }
    contestants = {'SIFA': with_sifa.to(args.device), 'identity': without.to(args.device)}

    def forward(model):
        model.eval()

        def call():
            with torch.no_grad(), torch.autocast(args.device, DTYPES[args.dtype], enabled=amp):
                data = model.data_preprocessor(batch, training=False)
                model(**data, mode='tensor')

        return call

    def train(model):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        wrapper = (
            AmpOptimWrapper(optimizer=optimizer, dtype=args.dtype, loss_scale=1.0)
            if amp
            else OptimWrapper(optimizer=optimizer)
        )
        return lambda: model.train_step(batch, wrapper)

    amp = args.dtype != 'float32'
    yield 'forward', {name: forward(model) for name, model in contestants.items()}
    yield 'training step', {name: train(model) for name, model in contestants.items()}


def header(records: list[dict]) -> str:
    """Say where the numbers come from."""
    run = records[0]
    return (
        f'{run["device"]}, {run["threads"]} CPU threads ({run["vectors"]}), {run["dtype"]}, '
        f'{run["clips"]} clip(s), PyTorch {run["torch"]}, mmsifa {run["mmsifa"]}, {run["date"]}; '
        f'median of {run["rounds"]} rounds in which all took turns.\n\n'
    )


def by_pass(records: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Sort milliseconds by pass, subject and contestant."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for record in records[1:]:
        subjects = result.setdefault(record['pass'], {})
        subjects.setdefault(record['subject'], {})[record['contestant']] = record['ms']
    return result


def make_page(records: list[dict]) -> str:
    """Make the page of tables; each run starts with the record of its machine."""
    starts = [i for i, record in enumerate(records) if 'device' in record]
    page = '# Inter-frame attention, timed\n\n'
    for start, end in zip(starts, [*starts[1:], len(records)], strict=True):
        run = records[start:end]
        of_networks = run[1]['contestant'] in ('SIFA', 'identity')
        page += network_tables(run) if of_networks else op_tables(run)
    return page


def op_tables(records: list[dict]) -> str:
    """Make the tables of the op: milliseconds, then the fastest backend against the others."""
    compiled = any(record['contestant'].endswith('compiled') for record in records[1:])
    title = 'One call of the op' + (', compiled code included' if compiled else '')
    if records[1]['pass'].startswith('block'):
        title = 'A SIFA block, eager and with `fuse=True`'
    tables = f'## {title}\n\n' + header(records)
    for name, subjects in by_pass(records).items():
        contestants = list(next(iter(subjects.values())))
        ours = contestants[0]  # BACKENDS has the fastest first
        rows = [
            [subject, *(f'{times[contestant]:.3g}' for contestant in contestants)]
            for subject, times in subjects.items()
        ]
        tables += table([f'{name}, ms', *contestants], rows) + '\n'
        others = [contestant for contestant in contestants[1:] if contestant != 'reference']
        rows = [
            [subject, *(f'{times[contestant] / times[ours]:.1f}' for contestant in others)]
            for subject, times in subjects.items()
        ]
        tables += table([f'{name}, times `{ours}`', *others], rows) + '\n'
    return tables


def network_tables(records: list[dict]) -> str:
    """Make the table of networks with SIFA and with an identity in its place."""
    head = ['', 'with SIFA, ms', 'with an identity in its place, ms', 'ratio']
    rows = []
    for name, subjects in by_pass(records).items():
        for config, times in subjects.items():
            ratio = times['SIFA'] / times['identity']
            numbers = (f'{times["SIFA"]:.4g}', f'{times["identity"]:.4g}', f'{ratio:.3f}')
            rows.append([f'{Path(config).stem}, {name}', *numbers])
    return '## Networks with the op and without\n\n' + header(records) + table(head, rows) + '\n'


if __name__ == '__main__':
    main()
