"""Weight files of released and of 2D networks with something changed in them."""

import copy
import functools
import random
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from mmaction.registry import MODELS
from mmengine.registry import DefaultScope

from mmsifa.apis.conversion import _released_name, _released_shape, convert_release
from mmsifa.models.weights_2d import load_2d_swin_weights, load_2d_weights


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
