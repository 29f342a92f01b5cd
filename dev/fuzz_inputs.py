"""Give random wrong input to what reads files or arguments; report all but the documented errors.

python dev/fuzz_inputs.py checkpoints --inputs 1000   # renamed, missing, misshapen weights
python dev/fuzz_inputs.py bytes --inputs 20000        # changed bytes of checkpoint files
python dev/fuzz_inputs.py op --inputs 20000           # arguments of inter-frame attention
"""

import argparse
import codecs
import contextlib
import copy
import functools
import io
import json
import pickle
import random
import re
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_op
import numpy as np
import torch
from mmaction.registry import MODELS
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.registry import DefaultScope
from rich.progress import track

from mmsifa.apis.conversion import _released_name, _released_shape, convert_release
from mmsifa.checkpoints.load import CheckpointError, safe_loading
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.models.weights_2d import load_2d_swin_weights, load_2d_weights
from mmsifa.ops import BACKENDS, inter_frame_attention

# What loading a file must never do; Python reports it before it happens.
FORBIDDEN = ('os.', 'subprocess.', 'shutil.', 'socket.', 'exec', 'ctypes.', 'tempfile.')
events: list[str] = []


def main(argv: list[str] | None = None) -> int:
    """Run one kind of input; return 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('--inputs', type=int, default=1000, help='how many (1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the first input (0)')
    parser.add_argument('--json', type=Path, help='file for the result')
    args = parser.parse_args(argv)
    MMLogger.get_instance('fuzz', log_level='ERROR')
    warnings.simplefilter('ignore')
    start, faults = time.time(), []
    for seed in track(range(args.seed, args.seed + args.inputs), description=args.kind):
        try:
            KINDS[args.kind](random.Random(seed))
        except Exception as error:
            faults.append(dict(seed=seed, fault=f'{type(error).__name__}: {error}'))
    result = dict(
        name=args.kind, inputs=args.inputs, seed=args.seed, faults=faults,
        seconds=round(time.time() - start, 1),
    )  # fmt: skip
    if args.json:
        write_atomically(args.json, json.dumps(result, indent=2, allow_nan=False).encode() + b'\n')
    for fault in faults[:10]:
        print(f'--seed {fault["seed"]} --inputs 1: {fault["fault"]}')
    print(f'{args.inputs} inputs of {args.kind}: {len(faults)} faults')
    return int(bool(faults))


# Weights


@functools.cache
def networks() -> list[tuple[str, Any, dict, Callable]]:
    """Return kinds of weight files: name, network, weights that fit, and what reads them."""
    resnet = dict(type='SIFANet', stage_blocks=(1, 2, 1, 2), base_channels=8)
    swin = dict(
        type='SIFATransformer',
        arch=dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2)),
        window_size=(1, 7, 7), deformable=False, patch_norm=False,
    )  # fmt: skip
    found: list[tuple[str, Any, dict, Callable]] = []
    with DefaultScope.overwrite_default_scope('mmaction'):
        for kind, backbone, head in (
            ('released SIFA-Net', resnet, dict(type='SIFAHead', in_channels=256)),
            ('released SIFA-Swin', swin, dict(type='I3DHead', in_channels=64)),
        ):
            model = dict(type='Recognizer3D', backbone=backbone, cls_head=head | {'num_classes': 5})
            weights = {}
            for name, target in MODELS.build(model).state_dict().items():
                source = _released_name(name)
                if not name.endswith('relative_position_index'):
                    shape = _released_shape(source, target)
                    weights[source] = torch.randn(shape).to(target.dtype)
            found.append((kind, None, weights, convert_release))
        for kind, backbone, load in (
            ('2D ResNet', resnet, load_2d_weights),
            ('2D Swin', swin, load_2d_swin_weights),
        ):
            released = found[0 if backbone is resnet else 1][2]
            weights = {
                name: weight.clone()
                for name, weight in released.items()
                if not re.search(r'dual|offset|tda|\.conv\.|layer\d\.\d+\.fc', name)
            }
            for name, weight in weights.items():  # kernels over frames and rows and columns
                if weight.dim() == 5 or (name == 'conv1.weight' and weight.dim() == 4):
                    weights[name] = weight.select(2, 0)
            found.append((kind, MODELS.build(backbone), weights, load))
    return found


def fuzz_weights(rng: random.Random) -> None:
    """Change one weight, or none; a needed one must be asked for, a superfluous one be named."""
    kind, net, weights, read = rng.choice(networks())
    file: dict = dict(weights)
    name = rng.choice(sorted(file))
    needed = not name.endswith(('num_batches_tracked', 'attn_mask', 'relative_position_index'))
    needed = needed and (net is None or not name.startswith('fc.'))
    change = rng.choice(list(CHANGES))
    CHANGES[change](file, name, rng)
    if rng.random() < 0.3:
        file = {f'module.{key}': value for key, value in file.items()}
    if rng.random() < 0.3:
        file = {rng.choice(('state_dict', 'model')): file}
    try:
        converted = read(file) if net is None else copy_of(net, file, read)
    except ValueError as error:
        if change in HARMLESS:
            raise AssertionError(f'{kind}, {change} {name}: refused: {error}') from error
        return
    if needed and change not in HARMLESS:
        raise AssertionError(f'{kind}, {change} {name}: accepted')
    if net is None:
        state = next((file[key] for key in ('state_dict', 'model') if key in file), file)
        if converted.num_weights + len(converted.unused) != len(state):
            raise AssertionError(f'{kind}, {change} {name}: a weight is neither used nor named')


def copy_of(net: Any, file: dict, load: Callable) -> Any:
    """Load weights from a file into a copy of a network."""
    with tempfile.NamedTemporaryFile(suffix='.pth') as path:
        torch.save(file, path)
        path.flush()
        with torch.no_grad():
            load(net := copy.deepcopy(net), path.name)
    return net


def rename(file: dict, name: str, rng: random.Random) -> None:
    """Change a letter of a name."""
    place = rng.randrange(len(name))
    file[f'{name[:place]}~{name[place + 1 :]}'] = file.pop(name)


def reshape(file: dict, name: str, rng: random.Random) -> None:
    """Give a weight another shape."""
    weight = file[name]
    shapes = [weight[None, None], weight.new_zeros(0), weight.new_zeros(*weight.shape, 2)]
    if weight.dim():
        shapes.append(weight.new_zeros(weight.shape[0] + 1, *weight.shape[1:]))
    file[name] = rng.choice([w for w in shapes if w.shape != weight.shape])


def replace(file: dict, name: str, rng: random.Random) -> None:
    """Put something else in the place of a weight."""
    file[name] = rng.choice((None, 1.5, 'weight', [1.0], {'a': 1}, np.float32(1)))


CHANGES: dict[str, Callable[[dict, str, random.Random], Any]] = {
    'keep': lambda file, name, rng: None,
    'half': lambda file, name, rng: file.update(
        {key: w.half() if w.is_floating_point() else w for key, w in file.items()}
    ),
    'drop': lambda file, name, rng: file.pop(name),
    'rename': rename,
    'reshape': reshape,
    'replace': replace,
    'whole numbers': lambda file, name, rng: file.update({name: file[name].to(torch.int32)}),
    'complex': lambda file, name, rng: file.update({name: file[name].to(torch.complex64)}),
}
HARMLESS = {'keep', 'half'}


# Bytes


@functools.cache
def real_files() -> list[tuple[bytes, Any]]:
    """Return small checkpoints in both formats, with what they hold."""
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    content = dict(
        meta=dict(epoch=1, iter=2, cfg='model = dict()'),
        state_dict={'weight': torch.randn(4, 3).T, 'bias': torch.ones(2, dtype=torch.bfloat16)},
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars={'loss': HistoryBuffer([0.5, 0.25], [1, 1])}),
        parameter=parameter, score=np.float64(0.5), names=('a', b'b'),
    )  # fmt: skip
    files = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        files.append((file.getvalue(), content))
    return files


def fuzz_bytes(rng: random.Random) -> None:
    """Change bytes of a file: it is refused, or holds the same, and does nothing in any case."""
    kind = rng.choice(('zip', 'pickle', 'legacy'))
    data, content = real_files()[kind == 'legacy']
    if kind == 'pickle':  # with a checksum that fits, to come past it
        data = with_pickle(data, lambda part: mutate(part, rng))
    else:
        data = mutate(data, rng)
    try:
        loaded = watch(lambda: load(data))
    except CheckpointError as error:
        if '\n' in str(error):
            raise AssertionError(f'{kind}: more than a line: {error}') from error
        return
    if kind == 'zip' and not same(loaded, content):
        raise AssertionError(f'{kind}: loaded something else: {loaded}')


def load(data: bytes) -> Any:
    """Load a checkpoint from memory."""
    with safe_loading():
        return torch.load(io.BytesIO(data), map_location='cpu')


def watch(function: Callable) -> Any:
    """Call a function; fail if it touched anything outside of the process's memory."""
    begin_to_watch()
    events.clear()
    try:
        return function()
    finally:
        seen = list(events)
        if seen:
            raise AssertionError(f'it did {seen}')


@functools.cache
def begin_to_watch() -> None:
    """Let Python report what it does, once all that is imported late has been imported."""
    codecs.lookup('cp437')  # of names in zip files
    for data, _ in real_files():
        load(data)
        with contextlib.suppress(CheckpointError):
            load(data[:-50])
    sys.addaudithook(note)


def note(event: str, args: tuple) -> None:
    """Note what Python reports about itself."""
    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')
    if writes or event.startswith(FORBIDDEN):
        events.append(event)


def with_pickle(data: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Change the pickle of a checkpoint and make its checksum anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, edit(part) if name.endswith('.pkl') else part)
    return out.getvalue()


OPCODES = [
    code
    for name in pickle.__all__
    if isinstance(code := getattr(pickle, name), bytes) and len(code) == 1
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, insert, remove, repeat or cut bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place, size = rng.randrange(len(out) or 1), rng.choice((1, 1, 2, 4, 8, 64))
        change = rng.randrange(7)
        if change == 0 and out:
            out[place % len(out)] ^= 1 << rng.randrange(8)
        elif change == 1:
            out[place : place + 1] = rng.choice(OPCODES)
        elif change == 2:
            del out[place : place + size]
        elif change == 3:
            out[place:place] = out[place : place + size]
        elif change == 4:
            out[place : place + size] = rng.choice((b'\0', b'\xff', b'\x7f')) * size
        elif change == 5:
            other = rng.randrange(len(out) or 1)
            out[place : place + size] = out[other : other + size]
        elif rng.random() < 0.2:
            del out[place:]
    return bytes(out)


def same(x: Any, y: Any) -> bool:
    """Compare two contents by what they are saved as."""
    if isinstance(x, torch.Tensor):
        return isinstance(y, torch.Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, HistoryBuffer):
        return isinstance(y, HistoryBuffer) and same(x.data, y.data)
    if isinstance(x, np.ndarray):
        return np.array_equal(x, y)
    if isinstance(x, dict):
        return isinstance(y, dict) and list(x) == list(y) and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)):
        return type(x) is type(y) and len(x) == len(y) and all(map(same, x, y))
    return type(x) is type(y) and x == y


# Arguments of the op


WRONG: dict[str, tuple] = {
    'kernel_size': (0, -1, 2, 5, True, 3.0, '3', None, 10**9 + 1),
    'dilation': (0, -3, 1.5, False, None, '1', 2**40),
    'num_heads': (0, -1, 7, 10**6, True, 2.0, None, '1'),
    'scale': (float('nan'), float('inf'), '1', 1j, [1.0], None, True, 10**400),
    'softmax': (None, 0, 1, 'yes', True),
    'backend': ('', 'cuda', 'no such', 3, 'cpu', 'reference', None),
}


def fuzz_op_arguments(rng: random.Random) -> None:
    """Change an argument of a valid call: a documented error, or what the reference computes."""
    tensors, options = fuzz_op.draw(rng, [torch.float32, torch.float64, torch.bfloat16])
    named: dict[str, Any] = dict(zip(('query', 'value', 'offset'), tensors, strict=False))
    keys = ('kernel_size', 'dilation', 'num_heads', 'scale', 'softmax')
    named |= dict(zip(keys, options, strict=True))
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
        fuzz_op.compare((out,), (expected,), score)
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
KINDS: dict[str, Callable[[random.Random], None]] = {
    'checkpoints': fuzz_weights,
    'bytes': fuzz_bytes,
    'op': fuzz_op_arguments,
}

if __name__ == '__main__':
    raise SystemExit(main())
