"""Export a recognizer to ONNX or AOTInductor.

The file is compared with the trained recognizer on real frames.
Exit code 1 says that the network cannot be exported, or not exactly, 2 that the arguments are
wrong, 130 that it was interrupted; only with 0 is there a new file.

Example:
    mmsifa export sifa_r50_k400 epoch_50.pth model.onnx --video video.mp4
"""

import argparse
import sys
from pathlib import Path

from mmsifa.commands.options import ConfigOptions, torch_device
from mmsifa.fileio.atomic_write import check_writable
from mmsifa.fileio.text_files import escape_path


def share(text: str) -> float:
    """Read a number from 0 on."""
    value = float(text)
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number from 0 on, got {text}')
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='config of the recognizer: a file or a name')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('out', type=Path, help='the file to write: OUT.onnx or OUT.pt2')
    parser.add_argument('--format', choices=('onnx', 'pt2'), help="default: what OUT's ending says")
    parser.add_argument(
        '--with-preprocess',
        action='store_true',
        help="take decoded frames: resizing, cropping and normalizing are the file's",
    )
    parser.add_argument(
        '--dynamic-frames', action='store_true', help='take clips of other lengths, too'
    )
    parser.add_argument(
        '--video', nargs='+', default=[], help='video files to compare on; default: made frames'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help="of the frames, where the test pipeline crops nothing; default: the first video's",
    )
    parser.add_argument(
        '--labels',
        type=Path,
        help='class names for the file, one a line; default: those of the data set',
    )
    parser.add_argument(
        '--tolerance',
        type=share,
        default=1e-3,
        help='largest difference of scores, as a share of the largest score (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        type=torch_device,
        default='cpu',
        help='where a pt2 package shall run (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, help='changes of the config: key=value'
    )


def check_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with an error if an argument is wrong."""
    endings = [args.format] if args.format else ['onnx', 'pt2']
    args.format = args.out.suffix[1:]
    if args.format not in endings:
        parser.error(f'{args.out} must end in .{" or .".join(endings)}')
    missing = [str(path) for path in args.video if not Path(path).is_file()]
    if missing:
        parser.error(f'no such file: {", ".join(missing)}')
    if args.format == 'onnx' and args.device.type != 'cpu':
        parser.error('an ONNX file is for no device: --device is for a pt2 package')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Export the recognizer that the arguments name; return the exit code."""
    check_arguments(args, parser)
    try:
        export(args, parser)
    except KeyboardInterrupt:
        print('Interrupted; no file was written', file=sys.stderr)
        return 130
    return 0


def export(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Export the recognizer and say how exact and how fast the file is."""
    import torch
    from rich.console import Console

    from mmsifa.apis import class_names, load_config, load_recognizer
    from mmsifa.apis.export import Exporter, ExportError, check_config
    from mmsifa.checkpoints.load import CheckpointError

    console = Console(markup=False, soft_wrap=True)
    try:
        check_writable(args.out)
        config = load_config(args.config, args.cfg_options)
        check_config(config)
        classes, source = class_names(config, args.labels)
        exporter = Exporter(
            load_recognizer(config, args.checkpoint, args.device),
            args.format,
            args.with_preprocess,
            args.dynamic_frames,
            args.video,
            args.size and tuple(args.size),
        )
    except (CheckpointError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))

    known = source != 'numbers'
    console.print(f'class names: {source if known else "none, give --labels"}')
    console.print(f'input {exporter.metadata["input"]}: {exporter.metadata["shape"]}')
    try:
        with console.status('') as status:
            result = exporter.export(
                args.out, args.tolerance, classes if known else None, status.update
            )
    except (ExportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    for name, (difference, of_largest) in result.differences.items():
        name = escape_path(name)
        console.print(f'{name}: scores differ by {difference:.1e}, {of_largest:.1e} of the largest')
    if not result.telling:
        console.print(
            'These scores show little: they are 0 or 1, or the same for all clips. Compare on '
            'other videos (--video)'
        )
    own, other = result.milliseconds
    console.print(
        f'a clip takes {own:.1f} ms in PyTorch, {other:.1f} ms in {exporter.format.name} '
        f'({torch.get_num_threads()} threads)'
    )
    console.print(f'{args.out}: {result.num_bytes / 2**20:.1f} MiB')
