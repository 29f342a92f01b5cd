"""``init_cfg=dict(type='Pretrained')``, with an error where a file does not fit."""

from collections import defaultdict
from collections.abc import Mapping

from mmaction.models.backbones import ResNet, ResNetTSM
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmsifa.checkpoints.fit import (
    first_ten,
    first_three,
    kind_of,
    same_kind,
    state_dict_in,
    without_module,
    without_place,
)
from mmsifa.checkpoints.load import load_file
from mmsifa.models.weights_2d import load_2d_weights


def check_one_source(pretrained: str | None, init_cfg: dict | list[dict] | None) -> None:
    """Refuse weights from two sources, of which one would overwrite the other.

    Args:
        pretrained: A backbone's argument of that name.
        init_cfg: Its initialization config.

    Raises:
        ValueError: If both name a file, or ``pretrained`` is no string.
    """
    if not isinstance(pretrained, str | None):
        raise ValueError(
            f'pretrained must be a path or URL as a string, or None, got {pretrained!r}'
        )
    cfgs = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    if init_cfg is not None and not all(isinstance(cfg, Mapping) and 'type' in cfg for cfg in cfgs):
        raise ValueError(
            f"init_cfg must be a config with a 'type', a list of such, or None, got {init_cfg!r}"
        )
    if pretrained and _pretrained_cfgs(init_cfg):
        raise ValueError(
            'weights come from either pretrained or init_cfg, got both: set pretrained=None to '
            f"keep init_cfg's, which {pretrained} would overwrite"
        )


def check_pretrained(net: BaseModule) -> None:
    """Refuse files of ``init_cfg=dict(type='Pretrained')`` that would load in part.

    A file must fill the network, and the network must take all of the file but a classifier. What
    is between frames or sums up a clip may be missing altogether, as from a file of a trunk.

    Args:
        net: The module, whose weights may change: it is initialized afterwards.

    Raises:
        ValueError: If weights are missing, have no place or another shape; it names them.
    """
    for cfg in _pretrained_cfgs(net.init_cfg):
        path, prefix = cfg['checkpoint'], cfg.get('prefix')
        # As MMEngine reads it: no 'model', and 'module.' stays where a prefix is given.
        weights = state_dict_in(load_file(path), keys=('state_dict',))
        if prefix:
            prefix = f'{prefix.rstrip(".")}.'
        else:
            prefix, weights = '', without_module(weights)
        own = net.state_dict()
        if not any(prefix + name in weights for name in own):
            raise ValueError(
                f"no weight in {path} belongs to this backbone: expected names like '{prefix}"
                f"{next(iter(own))}', got {sorted(map(str, weights))[:3]}. For the weights of a "
                "whole recognizer set prefix='backbone.' in init_cfg; 2D weights go into the "
                "argument 'pretrained', those for a plug-in into the config of its backbone"
            )
        chosen = {n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)}
        wrong = _what_does_not_fit(net, chosen)
        if wrong:
            raise ValueError(
                f'{path} does not hold the weights of this {type(net).__name__}: '
                f'{first_ten(wrong)}. Give the config that it was trained with, or a file without '
                'what is not wanted'
            )


def check_inner_pretrained(backbone: nn.Module) -> None:
    """Refuse files that a backbone of MMAction2 or another library would take in part.

    Args:
        backbone: The backbone of a plug-in, whose weights may change: it is initialized afterwards.

    Raises:
        ValueError: As :func:`check_pretrained` does.
    """
    for module in backbone.modules():
        if not isinstance(module, BaseModule) or module.is_init:
            continue
        if type(module) in (ResNet, ResNetTSM) and isinstance(module.pretrained, str):
            if getattr(module, 'pretrained2d', module.torchvision_pretrain):
                load_2d_weights(module, module.pretrained)
                continue
            module.init_cfg = dict(type='Pretrained', checkpoint=module.pretrained)  # as it does
        if not getattr(module, 'pretrained2d', False):  # or init_cfg is not what it loads
            check_pretrained(module)


def _pretrained_cfgs(init_cfg: dict | list[dict] | None) -> list[dict]:
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    return [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', PretrainedInit)]


def _what_does_not_fit(net: BaseModule, weights: Mapping[str, Tensor]) -> list[str]:
    """Load weights of a module's own names and tell what is wrong with them."""
    own = net.state_dict()
    wrong = [
        f'{name} is {kind_of(weights[name])}, expected {own[name].dtype}'
        for name in own
        if name in weights and not same_kind(weights[name], own[name])
    ]
    try:  # rather than comparing names, since modules may translate them
        missing, unused = net.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        return wrong or [line.strip(' \t.') for line in str(error).splitlines()[1:]]
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    for prefixes in _own_parts(net):
        of_kind = {name for name in own if name.startswith(prefixes)}
        if of_kind <= set(missing):
            missing = [name for name in missing if name not in of_kind]
    unknown = without_place(unused, getattr(net, 'left_out', ()))
    parts = {'missing': missing, 'without a place': unknown}
    return wrong + [f'{len(n)} {what} ({first_three(n)})' for what, n in parts.items() if n]


def _own_parts(net: nn.Module) -> list[tuple[str, ...]]:
    """List what files of a trunk lack, by kind: prefixes of names."""
    prefixes = defaultdict(list)
    for name, module in net.named_modules():
        for part in getattr(module, 'own_parts', ()):
            prefixes[type(module)].append(f'{name}.{part}.'.removeprefix('.'))
    return [tuple(of_kind) for of_kind in prefixes.values()]
