"""Annotation lists, checkpoints and weights with anything in them: refused, or read as meant."""

import codecs
import contextlib
import copy
import functools
import io
import os
import pickle
import random
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmaction.registry import MODELS
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from test_fuzzed_op import examples

from mmsifa.apis.conversion import _released_name, _released_shape, convert_release
from mmsifa.checkpoints.load import CheckpointError, safe_loading
from mmsifa.datasets import AnnotationError, read_annotations
from mmsifa.models.weights_2d import load_2d_swin_weights, load_2d_weights

# Annotation lists

pytestmark = pytest.mark.slow
NAMES = st.text(
    st.characters(codec='utf-8', exclude_categories=('Cc', 'Zs', 'Zl', 'Zp')), min_size=1
).filter(lambda name: name[0] != '\ufeff')


@examples(150)
@given(st.dictionaries(NAMES, st.integers(0, 10**9 - 1), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, labels):
    path = tmp_path_factory.getbasetemp() / 'round_trip.txt'
    path.write_text(''.join(f'{name} {label}\n' for name, label in labels.items()), 'utf-8')
    samples, (largest, line) = read_annotations(path)
    assert {sample['filename']: sample['label'] for sample in samples} == labels
    assert largest == max(labels.values()) == samples[line - 1]['label']


PIECES = [
    *(b'a', b'video.mp4', b'..', b'.', b'/', b'\\', b'C:', b'~', b'//', b'file://'),
    *(b' ', b'  ', b',', b'\t', b'\n', b'\r\n', b'\r', b'\n\n', b'\0', b'\x1b[2J', b'\x7f', b'-'),
    *(b'0', b'1', b'399', b'-1', b'1.5', b'1e3', b'0x1', b'1_0', b'9' * 30, b'nan', b'one'),
    *(b'\xef\xbb\xbf', b'\xff\xfe', b'\xff', b'\xe9', b'\xed\xa0\x80', b'a' * 70000),
    '٢é中\u2028\u202e'.encode(),
]
GOOD = b'class 1/video.mp4,0\nclass 2/video.mp4,1\n'


@st.composite
def nearly_good(draw):
    """A good list with a few bytes changed."""
    content = bytearray(GOOD * draw(st.integers(1, 3)))
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


@examples(500)
@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40).map(b''.join)
    | nearly_good()
    | st.binary(max_size=200),
    st.sampled_from([('filename',), ('frame_dir', 'offset', 'total_frames')]),
    st.sampled_from([None, '', 'videos', '/videos']),
    st.sampled_from([' ', ',', '\t', None]),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory, content, columns, root, delimiter, multi_class, num_classes, labels_required
):
    path = tmp_path_factory.getbasetemp() / 'any.txt'
    path.write_bytes(content)
    try:
        samples, _ = read_annotations(
            path,
            columns,
            root=root,
            delimiter=delimiter,
            multi_class=multi_class,
            num_classes=num_classes,
            labels_required=labels_required,
        )
    except AnnotationError as error:
        lines = str(error).splitlines()
        assert lines[0].startswith(str(path))
        assert all(line.isprintable() for line in lines)
        return
    for sample in samples:
        labels = sample['label'] if multi_class else [sample['label']]
        lowest = 0 if multi_class or labels_required else -1
        assert all(lowest <= label < (num_classes or 10**9) for label in labels)
        if root:
            assert '..' not in sample[columns[0]].replace('\\', '/').split('/')
            assert sample[columns[0]].startswith(f'{root}/')


# Checkpoints: nothing else happens while they load

# What loading a file must never do; Python reports it before it happens.
FORBIDDEN = ('os.', 'subprocess.', 'shutil.', 'socket.', 'exec', 'ctypes.', 'tempfile.')
events: list[str] = []


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


@examples(400)
@given(st.sampled_from(['zip', 'pickle', 'legacy']), st.randoms(use_true_random=False))
def test_changed_files_are_refused_or_hold_the_same(kind, rng):
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


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_unchanged_files_hold_the_same(kind):
    data, content = real_files()[kind == 'legacy']
    assert same(watch(lambda: load(data)), content)
    if kind == 'zip':
        assert same(load(with_pickle(data, lambda part: part)), content)


def test_the_watch_sees_commands_and_files(tmp_path):
    with pytest.raises(AssertionError, match=r"it did \['os.system'\]"):
        watch(lambda: os.system('true'))
    with pytest.raises(AssertionError, match=r"it did \['open'\]"):
        watch(lambda: open(tmp_path / 'file', 'w').close())


# Weights of released and of 2D networks


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


def change_a_weight(rng: random.Random) -> None:
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


@examples(60)
@given(st.randoms(use_true_random=False))
def test_weights_that_do_not_fit_are_refused_and_none_is_dropped_in_silence(rng):
    change_a_weight(rng)


@pytest.mark.parametrize('change', ['drop', 'complex'])
def test_a_weight_that_is_dropped_in_silence_is_a_fault(change, monkeypatch):
    kind, net, weights, _ = networks()[2]
    weights = {'conv1.weight': weights['conv1.weight']}
    silent = (kind, net, weights, lambda net, path: None)
    monkeypatch.setitem(globals(), 'networks', lambda: [silent])
    monkeypatch.setitem(globals(), 'CHANGES', {change: CHANGES[change]})
    with pytest.raises(AssertionError, match=f'2D ResNet, {change} conv1.weight: accepted'):
        change_a_weight(random.Random(0))
