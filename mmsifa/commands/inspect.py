"""Show where inter-frame attention looks in a video.

Writes a page and a picture of what the SIFA layers of a trained recognizer do.

Example:
    mmsifa inspect a.mp4 --config sifa_r50_k400 --checkpoint r50.pth --out page
"""

import argparse
import sys
from pathlib import Path

from mmsifa.commands.options import add_recognizer_arguments
from mmsifa.fileio.atomic_write import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add('video', type=Path, help='video file')
    add_recognizer_arguments(parser)
    add('--out', required=True, type=Path, help='folder for index.html and summary.png')
    add(
        '--start',
        type=float,
        metavar='SECONDS',
        help='where the clip starts; default: the clip in the middle of the video',
    )
    add('--layer', help='name of the layer in summary.png; default: the one with the finest map')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Write index.html and summary.png of the video that the arguments name."""
    from mmsifa.apis import (
        class_names,
        default_device,
        load_config,
        load_recognizer,
        video_pipeline,
    )
    from mmsifa.apis.inspection import inspect_video
    from mmsifa.apis.inspection.capture import sifa_layers
    from mmsifa.apis.inspection.figure import write_summary
    from mmsifa.apis.inspection.interactive_page import write_page
    from mmsifa.checkpoints.load import CheckpointError

    if not args.video.is_file():
        parser.error(f'no such file: {args.video}')
    page, picture = args.out / 'index.html', args.out / 'summary.png'
    try:
        for path in (page, picture):
            check_writable(path)
        config = load_config(args.config, args.cfg_options)
        video_pipeline(config)  # refuses what takes no videos
        names, source = class_names(config, args.labels)
        model = load_recognizer(config, args.checkpoint, args.device or default_device())
        layers = sifa_layers(model)
        if args.layer not in (None, *layers):
            raise ValueError(f'there is no layer {args.layer}; there are {", ".join(layers)}')
        labels = None if source == 'numbers' else names
        inspection = inspect_video(model, args.video, args.start, labels, args.checkpoint)
    except (ValueError, RuntimeError, CheckpointError, OSError) as error:
        parser.error(str(error))
    try:
        write_page(inspection, page)
        write_summary(inspection, picture, args.layer)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    for name, score in inspection.scores:
        print(f'{100 * score:5.1f} %  {name}')
    for layer in inspection.layers:
        pairs, _, _, height, width = layer.offset.shape
        print(f'{layer.name}: {height} x {width}, pairs of frames: {pairs}')
    for path in (page, picture):
        print(f'{path}: {path.stat().st_size / 2**20:.2f} MiB')
    return 0
