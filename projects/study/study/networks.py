"""The networks that a study compares."""

from typing import Any, NamedTuple


class Network(NamedTuple):
    """A network of a study.

    Attributes:
        title: Its name in tables and figures.
        base: The file of the trunk's config, ``resnet`` or ``swin``.
        changes: What it changes in that config, as of ``--cfg-options``.
        colour: Its colour in figures.
    """

    title: str
    base: str
    changes: dict[str, Any]
    colour: str = '#000000'


_BETWEEN, _PARTS = 'model.backbone.between_frames', 'model.backbone.temporal_parts'
_STAGES = 'model.backbone.stage_with_sifa'
_SLOW_OFFSETS = dict(custom_keys=dict(conv_offset=dict(lr_mult=0.1)))

NETWORKS = {
    'c2d': Network('C2D', 'resnet', {_BETWEEN: dict(type='torch.nn.Identity')}, '#888888'),
    'temporal_conv': Network(
        'temporal convolution', 'resnet', {_BETWEEN: dict(type='TemporalConv')}, '#1f77b4'
    ),
    'tsm': Network('TSM', 'resnet', {_BETWEEN: dict(type='TemporalShift')}, '#17becf'),
    'undeformed': Network(
        'attention, not deformed',
        'resnet',
        {_BETWEEN: dict(type='SIFA', deformable=False)},
        '#bcbd22',
    ),
    'unscaled': Network(
        'attention, no motion rescaling',
        'resnet',
        {_BETWEEN: dict(type='SIFA', motion_rescaling=False)},
        '#ff7f0e',
    ),
    'sifa': Network('SIFA', 'resnet', {}, '#d62728'),
    'sifa_slow_offsets': Network(
        'SIFA, offsets learnt at a tenth',
        'resnet',
        {'optim_wrapper.paramwise_cfg': _SLOW_OFFSETS},
        '#8c564b',
    ),
    'sifa_softmax': Network(
        'SIFA, softmax', 'resnet', {_BETWEEN: dict(type='SIFA', softmax=True)}, '#e377c2'
    ),
    'sifa_taps': Network(
        'SIFA, tap embedding',
        'resnet',
        {_BETWEEN: dict(type='SIFA', tap_embedding=True)},
        '#9467bd',
    ),
    'sifa_layer2': Network(
        'SIFA, second stage only', 'resnet', {_STAGES: (False, True, False)}, '#f7b6d2'
    ),
    'sifa_layer3': Network(
        'SIFA, third stage only', 'resnet', {_STAGES: (False, False, True)}, '#98df8a'
    ),
    'sifa_from_scratch': Network('SIFA, from scratch', 'resnet', {'trunk': None}),
    'swin_conv': Network(
        'Swin, temporal convolution', 'swin', {_PARTS: ('convolution', 'convolution')}, '#1f77b4'
    ),
    'swin_sifa': Network('Swin, SIFA', 'swin', {_PARTS: ('attention', 'attention')}, '#d62728'),
    'swin_both': Network('Swin, both', 'swin', {_PARTS: ('attention', 'convolution')}, '#2ca02c'),
}

# Networks of single frames, whose weights the others start from. The Swin takes longer to learn.
TRUNKS = {
    'c2d': NETWORKS['c2d'],
    'swin_2d': Network('Swin', 'swin', {'iterations': 6000, _PARTS: (None, None)}),
}
