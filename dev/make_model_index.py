"""Measure every config's network and write MIM's model index and the README's table of models.

Parameters and multiply-adds are counted, the rest is read from the configs. Run it after a change
of a config or a network.
"""

import argparse
import ast
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import yaml
from mmaction.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from rich.progress import track

from mmsifa.apis.analysis import (
    Clip,
    clip_of,
    count_multiply_adds,
    count_parameters,
    total,
    views_of,
)
from mmsifa.apis.analysis.report_pages import around_markers, billions, millions
from mmsifa.commands.make_motion_dataset import MotionSettings
from mmsifa.fileio.text_files import row

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = {'SIFANet': 'SIFA-Net', 'SIFATransformer': 'SIFA-Transformer'}
DATASETS = {
    'kinetics400': 'Kinetics-400',
    'kinetics600': 'Kinetics-600',
    'sthv1': 'Something-Something V1',
    'sthv2': 'Something-Something V2',
    'motion': 'Motion',
}
PAPER = {
    'URL': 'https://arxiv.org/abs/2206.06931',
    'Title': 'Stand-Alone Inter-Frame Attention in Video Models',
}
# Quoted for the network, not for one of its sizes, and no result of this repository.
PAPER_TOP_1 = '83.1 Kinetics-400, 57.3 Something-Something V1, 69.8 V2 (quoted, not reproduced)'
START, END = '<!-- models: written by dev/make_model_index.py -->', '<!-- models: end -->'


@dataclass
class Model:
    """What a config trains, and what it costs."""

    config: str
    collection: str
    network: str
    dataset: str
    classes: int
    frames: int
    clip: str
    side: int  # of the training frames, in pixels
    views: str
    batch_size: int
    epochs: int
    pretrained: str | None
    parameters: int
    backbone_parameters: int
    multiply_adds: int

    @property
    def name(self) -> str:
        """The config's file name without its extension."""
        return Path(self.config).stem

    def order(self) -> tuple:
        """Sort by network, from small to large, then by clip and data; small frames last."""
        dataset = list(DATASETS.values()).index(self.dataset)
        return -self.side, self.collection, self.backbone_parameters, self.frames, dataset


def measure(config: Path) -> Model:
    """Read a config, build its recognizer without memory and count a clip's forward pass.

    Args:
        config: A config with MMAction2's ``train_pipeline`` and ``test_pipeline``.

    Returns:
        The model.

    Raises:
        ValueError: If the folder of the data, ``data/FOLDER/``, has no name in ``DATASETS``, or
            the backbone none in ``COLLECTIONS``.
    """
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    folder = Path(cfg.train_dataloader.dataset.ann_file).parts[1]
    if folder not in DATASETS:
        raise ValueError(
            f'{config} trains on data/{folder}: give it a name in DATASETS of {__file__}'
        )
    if backbone.type not in COLLECTIONS:
        raise ValueError(
            f'{config} trains a {backbone.type}: give it a name in COLLECTIONS of {__file__}'
        )
    in_motion = folder == 'motion'  # whose clips stay as they were made
    clip = clip_of(cfg, side=MotionSettings.size if in_motion else None)
    backbone_costs, head_costs = costs(*networks(cfg.model), replace(clip, sampling=''))
    classes = cfg.model.cls_head.num_classes
    parameters, multiply_adds = (
        of_backbone + classes * of_class
        for of_backbone, of_class in zip(backbone_costs, head_costs, strict=True)
    )
    return Model(
        config=config.relative_to(ROOT).as_posix(),
        collection=COLLECTIONS[backbone.type],
        network=f'{COLLECTIONS[backbone.type]} {size_of(backbone)}',
        dataset=DATASETS[folder],
        classes=classes,
        frames=clip.frames,
        clip=clip.sampling,
        side=clip.height,
        views=views_of(cfg),
        batch_size=cfg.train_dataloader.batch_size,
        epochs=cfg.train_cfg.max_epochs,
        pretrained=backbone.pretrained
        and ('ImageNet-22K' if '_22k' in backbone.pretrained else 'ImageNet-1K'),
        parameters=parameters,
        backbone_parameters=backbone_costs[0],
        multiply_adds=multiply_adds,
    )


def networks(model: ConfigDict) -> tuple[str, str]:
    """Return the configs of a backbone and of its head for one class, as Python code."""
    backbone, head = model.backbone.to_dict(), model.cls_head
    backbone.pop('pretrained')
    return repr(backbone), repr(dict(type=head.type, in_channels=head.in_channels, num_classes=1))


@cache
def costs(backbone: str, head: str, clip: Clip) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count parameters and multiply-adds, once where configs share a network.

    Args:
        backbone: Its config, as Python code.
        head: That of a head with one class; with more it has as many times as much of both.
        clip: The clip to count for.

    Returns:
        Both counts of the backbone, and those of the head.
    """
    parts = dict(backbone=ast.literal_eval(backbone), cls_head=ast.literal_eval(head))
    with torch.device('meta'):
        model = MODELS.build(dict(type='Recognizer3D', **parts)).eval()
    counts = count_multiply_adds(model, clip)
    of_head = total({'head': counts.pop('head')})
    return (
        (count_parameters(model.backbone), total(counts)),
        (count_parameters(model.cls_head), of_head),
    )


def size_of(backbone: ConfigDict) -> str:
    """Name the size of a network."""
    if 'stage_blocks' in backbone:
        return 'tiny'
    return backbone.arch[0].upper() if 'arch' in backbone else f'R{backbone.depth}'


def metafile_entries(models: list[Model]) -> dict[str, str]:
    """Write the parts of the metafile, each model's under its name."""
    collections: list[dict] = [
        {'Name': name, 'README': '../README.md', 'Paper': dict(PAPER)}
        for name in COLLECTIONS.values()
    ]
    transformer = list(COLLECTIONS).index('SIFATransformer')
    collections[transformer]['Metadata'] = {"Paper's Top 1 Accuracy": PAPER_TOP_1}
    entries = {'Collections': to_yaml({'Collections': collections}) + '\nModels:\n'}
    for model in models:
        metadata = {
            'Architecture': model.network,
            'Training Data': model.dataset,
            'Classes': model.classes,
            'Frames': model.frames,
            'Resolution': f'{model.side}x{model.side}',
            'Test Views': model.views,
            'Batch Size': model.batch_size,
            'Epochs': model.epochs,
            'Pretrained': model.pretrained,
            'Parameters': f'{millions(model.parameters)}M',
            'FLOPs': f'{billions(model.multiply_adds)}G',
        }
        entry = {
            'Name': model.name,
            'Config': model.config,
            'In Collection': model.collection,
            'Metadata': {key: value for key, value in metadata.items() if value is not None},
            'Results': [{'Task': 'Action Recognition', 'Dataset': model.dataset, 'Metrics': {}}],
        }
        entries[model.name] = to_yaml([entry])
    return entries


def to_yaml(data: list | dict) -> str:
    """Format data in the order it has."""
    return yaml.safe_dump(data, sort_keys=False, width=100)


def readme_entries(models: list[Model]) -> dict[str, str]:
    """Write the rows of the README's table, each under the name of its network.

    A cell links the configs of a network for a data set, by the frames of their clips. The
    quickstart's network is left out.
    """
    datasets = [name for name in DATASETS.values() if name != DATASETS['motion']]
    head = ('network', *datasets, 'parameters, M', 'GMACs')
    entries = {'head of the table': row(head) + row(('---',) * 5 + ('---:',) * 2)}
    shown = [model for model in models if model.dataset in datasets]
    for network in dict.fromkeys(model.network for model in shown):
        configs = [model for model in shown if model.network == network]
        links = [
            ', '.join(f'[{m.frames}]({m.config})' for m in configs if m.dataset == dataset)
            for dataset in datasets
        ]
        sizes = sorted(model.parameters for model in configs)
        parameters = ' to '.join(dict.fromkeys(millions(size) for size in (sizes[0], sizes[-1])))
        costs = ', '.join(dict.fromkeys(billions(model.multiply_adds) for model in configs))
        entries[network] = row((network, *links, parameters, costs))
    return entries


def replace_table(page: str, table: str) -> str:
    """Put a table between the page's markers.

    Raises:
        ValueError: If the page does not have each marker once.
    """
    before, after = around_markers(page, 'README.md', START, END)
    return f'{before}{START}\n\n{table}\n{END}{after}'


def main(argv: list[str] | None = None) -> None:
    """Measure, then write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if something is stale'
    )
    args = parser.parse_args(argv)
    leaves = sorted((ROOT / 'configs').glob('*.py'))
    models = [measure(leaf) for leaf in track(leaves, description='Configs')]
    models.sort(key=Model.order)

    metafile, readme = ROOT / 'configs/metafile.yml', ROOT / 'README.md'
    entries = {metafile: metafile_entries(models), readme: readme_entries(models)}
    texts = {path: ''.join(parts.values()) for path, parts in entries.items()}
    texts[readme] = replace_table(readme.read_text(), texts[readme])
    stale = False
    for path, text in texts.items():
        present = path.read_text() if path.exists() else ''
        if present == text:
            continue
        if not args.check:
            path.write_text(text)
            continue
        stale = True
        changed = [name for name, entry in entries[path].items() if entry not in present]
        print(
            f'{path.relative_to(ROOT)} is stale: '
            f'{", ".join(changed) or "it has more entries or another order"}'
        )
    if stale:
        sys.exit('Write them anew: python dev/make_model_index.py')


if __name__ == '__main__':
    main()
