"""Convert a checkpoint of the paper's released code.

The new one is for our configs; those that it fits are named. With --trust, write the weights of a
file that is refused otherwise into one that everything loads; they keep their names.

Example:
    mmsifa convert released.pth sifa.pth
    mmsifa convert --trust mae.pth weights.pth
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmsifa.fileio.atomic_write import check_writable
from mmsifa.fileio.config_files import config_folder
from mmsifa.installation import __version__

if TYPE_CHECKING:
    import torch

    from mmsifa.apis.conversion import Conversion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('checkpoint', metavar='IN', type=Path, help='checkpoint to convert')
    parser.add_argument('out', metavar='OUT', type=Path, help='file to write')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='load IN this once whatever it holds, which may run any code, and write its weights '
        'alone: only for a file whose maker you trust',
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Convert the checkpoint that the arguments name."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import CheckpointLoader

    from mmsifa.apis.conversion import convert_release
    from mmsifa.checkpoints.load import CheckpointError

    if not args.checkpoint.is_file():
        parser.error(f'no such file: {args.checkpoint}')
    if args.out.exists() and args.out.samefile(args.checkpoint):
        parser.error(f'OUT is IN, {args.checkpoint}, which is not overwritten: name another file')
    try:
        check_writable(args.out)
    except ValueError as error:
        parser.error(str(error))
    if args.trust:
        return write_trusted(args, parser)
    init_default_scope('mmaction')
    try:
        released = CheckpointLoader.load_checkpoint(str(args.checkpoint), map_location='cpu')
    except (CheckpointError, RuntimeError, OSError) as error:
        parser.error(f'cannot read {args.checkpoint}: {error}')
    try:
        converted = convert_release(released)
    except ValueError as error:
        parser.error(f'cannot convert {args.checkpoint}: {error}')
    try:
        save(converted, args.out)
    except OSError as error:
        parser.error(f'cannot write {args.out}: {error}')
    configs = fitting_configs(converted)
    print(f'network: {converted.network}')
    print(f'classes: {converted.model["cls_head"]["num_classes"]}')
    print(f'weights: {converted.num_weights}')
    print(f'not used: {", ".join(converted.unused) or "none"}')
    print(f'config: {configs}')
    return 0


def write_trusted(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Write the weights of a checkpoint that the user trusts, and nothing else of it."""
    from mmsifa.checkpoints import load_trusted, write_weights

    try:
        weights, others = write_weights(load_trusted(args.checkpoint), args.out)
    except (ValueError, OSError) as error:
        parser.error(f'cannot write the weights of {args.checkpoint}: {error}')
    print(f'weights: {len(weights)}')
    print(f'not used: {", ".join(others) or "none"}')
    return 0


def save(converted: Conversion, out: Path) -> None:
    """Write a checkpoint as MMEngine does, whole or not at all (:mod:`mmsifa.engine.patches`)."""
    import mmengine
    from mmengine.config import Config
    from mmengine.runner import save_checkpoint

    meta = dict(
        cfg=Config(dict(model=converted.model)).pretty_text,
        time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
        mmengine_version=mmengine.__version__,
        mmsifa_version=__version__,
    )
    save_checkpoint(dict(meta=meta, state_dict=converted.state_dict), str(out))


def fitting_configs(converted: Conversion) -> str:
    """Name our configs that the weights fit, with options where needed; best those without."""
    import torch
    from mmaction.registry import MODELS
    from mmengine.config import Config

    head, backbone = converted.model['cls_head'], converted.model['backbone']
    released = {k: backbone[k] for k in ('deformable', 'patch_norm') if k in backbone}
    fits: dict[bool, list[str]] = {True: [], False: []}
    built: dict[str, dict[str, torch.Size]] = {}
    for path in sorted(config_folder().glob('*.py')):
        model = Config.fromfile(path).model
        if model.backbone.type != backbone['type']:
            continue
        options = {f'model.backbone.{name}': value for name, value in released.items()}
        same_classes = model.cls_head.num_classes == head['num_classes']
        if not same_classes:
            options['model.cls_head.num_classes'] = head['num_classes']
        cfg = Config(dict(model=model))
        cfg.merge_from_dict(options)
        network = str((cfg.model.backbone, cfg.model.cls_head.in_channels))
        if network not in built:
            with torch.device('meta'):
                built[network] = shapes(MODELS.build(cfg.model).state_dict())
        if built[network] == shapes(converted.state_dict):
            line = ' '.join(f'{name}={value}' for name, value in options.items())
            line = f'--cfg-options {line}' if options else ''
            fits[same_classes].append(f'configs/{path.name} {line}'.strip())
    none = f'none of ours; its model is {converted.model}'
    return ' or '.join(fits[True] or fits[False]) or none


def shapes(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return the tensors' shapes by name."""
    return {name: tensor.shape for name, tensor in state_dict.items()}
