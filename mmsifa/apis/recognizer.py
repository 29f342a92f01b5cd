"""Recognizers from configs and checkpoints, for tools that use a trained model."""

import textwrap
from functools import reduce
from pathlib import Path

import torch
from mmaction.apis import init_recognizer
from mmengine.config import Config
from torch import nn

from mmsifa.checkpoints.fit import load_fitting_weights
from mmsifa.fileio.config_files import config_errors, config_folder


def default_device() -> str:
    """Return the first GPU's name, or ``'cpu'`` where there is none."""
    return 'cuda:0' if torch.cuda.is_available() else 'cpu'


def load_config(name: str | Path, options: dict | None = None) -> Config:
    """Read a config, of any MMAction2 recognizer.

    Args:
        name: A file, the name of a config of mmsifa such as ``sifa_r50_k400``, or
            ``PACKAGE::CONFIG`` for one of an installed package such as
            ``mmaction::recognition/tsm/...``.
        options: What to change in it, as of ``--cfg-options``. Defaults to None.

    Returns:
        The config.

    Raises:
        ValueError: If there is no such config, it cannot be read or changed so, or has no model.

    Example:
        >>> from mmsifa.apis import load_config
        >>> load_config('sifa_r50_k400').model.backbone.type
        'SIFANet'
    """
    if Path(name).is_file():
        path = Path(name)
    else:
        package, _, leaf = str(name).rpartition('::')
        path = config_folder(package or 'mmsifa') / f'{leaf.removesuffix(".py")}.py'
        if not path.is_file():
            own = ', '.join(sorted(config.stem for config in config_folder().glob('*.py')))
            raise ValueError(
                f'no config {name}: expected a file, one of mmsifa ({own}), or PACKAGE::CONFIG '
                'with CONFIG a path in the configs of an installed package'
            )
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is a program
        raise ValueError(
            f'the config {path} cannot be read ({type(error).__name__}: {error})'
        ) from error
    change_config(config, options or {})
    if not isinstance(config.get('model'), dict):
        raise ValueError(f'the config {name} has no model: give the config of a recognizer')
    for key, kind in (
        ('model.cls_head', dict),
        ('model.test_cfg', dict),
        ('model.test_cfg.max_testing_views', int),
        ('test_dataloader', dict),
        ('test_dataloader.batch_size', int),
        ('test_dataloader.dataset', dict),
    ):
        value = reduce(lambda part, name: (part or {}).get(name), key.split('.'), config)
        if not isinstance(value, kind | None):
            raise ValueError(
                f'{key} of the config {name} must be of type {kind.__name__}, got {value!r}'
            )
    for key in options or {}:
        split, pipeline, place = key.partition('_pipeline')
        loader = config.get(f'{split}_dataloader') if pipeline else None
        if loader and 'pipeline' in loader.get('dataset', {}):
            raise ValueError(
                f'{key} changes nothing, since the data loader has a pipeline of its own: give '
                f'{split}_dataloader.dataset.pipeline{place}'
            )
    return config


def change_config(config: Config, options: dict) -> None:
    """Change a config as ``--cfg-options`` say.

    Args:
        config: The config.
        options: New values by their places, such as ``{'model.backbone.depth': 101}``.

    Raises:
        ValueError: If there is no such place; the config stays as it is.

    Example:
        >>> config = load_config('sifa_r50_k400')
        >>> change_config(config, {'test_pipeline.20.num_clips': 1})
        Traceback (most recent call last):
        ValueError: test_pipeline.20.num_clips=1 has no place in the config (...
    """
    try:
        config.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError) as error:
        if len(options) > 1:  # name the one that is wrong alone
            for key, value in options.items():
                change_config(config.copy(), {key: value})
        pairs = ', '.join(f'{key}={value}' for key, value in options.items())
        reason = textwrap.shorten(str(error.args[0]), 100)
        raise ValueError(f'{pairs} has no place in the config ({reason})') from error


def load_recognizer(
    config: Config, checkpoint: str | Path, device: str | torch.device = 'cpu'
) -> nn.Module:
    """Build a recognizer, ready to test, with weights of its own and nothing left out.

    Args:
        config: Its config, as of :func:`load_config`.
        checkpoint: Path or URL of its weights.
        device: Where it shall run. Defaults to the CPU.

    Returns:
        The recognizer in test mode, with its config as ``cfg``, as MMAction2's
        ``inference_recognizer`` takes it.

    Raises:
        CheckpointError: If the file is refused or holds the weights of another model.
        OSError: If there is no such file.
        ValueError: If the config's model cannot be built.
    """
    try:
        with config_errors():
            model = init_recognizer(config, device=device)
    except ValueError as error:
        raise ValueError(f'the model of the config cannot be built: {error}') from error
    load_fitting_weights(model, str(checkpoint))
    return model
