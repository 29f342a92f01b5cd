"""Export a trained recognizer to an ONNX file or an AOTInductor package, checked on real frames."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from mmsifa.apis import class_names, load_config, load_recognizer
from mmsifa.apis.command_line import ConfigOptions, torch_device
from mmsifa.checkpoint import CheckpointError
from mmsifa.export import Exporter, ExportError, check_writable


def main(argv: list[str] | None = None) -> None:
    """Export the recognizer that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the recognizer: a file or a name')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('out', type=Path, help='the file to write: OUT.onnx or OUT.pt2')
    parser.add_argument('--format', choices=('onnx', 'pt2'), default='onnx')
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
    parser.add_argument('--labels', type=Path, help='class names for the file, one a line')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
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
    args = parser.parse_args(argv)
    console = Console()
    missing = [str(path) for path in (*args.video, args.labels) if path and not Path(path).exists()]
    if missing:
        parser.error(f'no such file: {", ".join(missing)}')
    if args.format == 'onnx' and args.device.type != 'cpu':
        parser.error('an ONNX file is for no device: --device is for --format pt2')
    try:
        check_writable(args.out, f'.{args.format}')
        model = load_recognizer(
            load_config(args.config, args.cfg_options), args.checkpoint, args.device
        )
        exporter = Exporter(
            model,
            args.format,
            args.with_preprocess,
            args.dynamic_frames,
            args.video,
            args.size and tuple(args.size),
        )
        classes = args.labels and class_names(model.cfg, args.labels)[0]
    except (CheckpointError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))

    console.print(f'input {exporter.metadata["input"]}: {exporter.metadata["shape"]}')
    try:
        with console.status('') as status:
            result = exporter.export(args.out, args.tolerance, classes, status.update)
    except (ExportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    for name, (difference, share) in result.differences.items():
        console.print(f'{name}: scores differ by {difference:.1e}, {share:.1e} of the largest')
    own, other = result.milliseconds
    console.print(
        f'a clip takes {own:.1f} ms in PyTorch, {other:.1f} ms in {exporter.format.name} '
        f'({torch.get_num_threads()} threads)'
    )
    console.print(f'{args.out}: {result.num_bytes / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
