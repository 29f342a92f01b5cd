"""Draw the loss and accuracy of a training run.

Reads what MMEngine logged: the training loss and the validation accuracy.

Example:
    mmsifa plot work_dirs/sifa_r50_k400 --out learning_curve.png
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

METRIC = 'acc/top1'


def read_scalars(work_dir: Path) -> list[dict]:
    """Read what the newest run in a work folder logged, in order.

    Args:
        work_dir: The folder given to training as ``--work-dir``.

    Returns:
        One dict for each logged line; validation results have no ``loss``.

    Raises:
        FileNotFoundError: If no training run is logged there.
    """
    for path in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if any('loss' in line for line in lines):
            return lines
    raise FileNotFoundError(
        f'{work_dir} holds no training run: expected TIME/vis_data/scalars.json with losses in it'
    )


def plot(scalars: list[dict], metric: str, out: Path) -> None:
    """Draw the loss and a validation metric over the epochs.

    Args:
        scalars: What :func:`read_scalars` gives.
        metric: Name of the validation metric, a share between 0 and 1.
        out: The file to write, of a kind that Matplotlib knows.

    Raises:
        ValueError: If the run was validated by other metrics, or the file's kind is unknown.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    train = [line for line in scalars if 'loss' in line]
    val = [line for line in scalars if metric in line]
    known = {key for line in scalars if 'loss' not in line for key in line}
    known -= {'step', 'time', 'data_time'}
    if not val and (known or metric != METRIC):
        names = ', '.join(sorted(known)) or 'none'
        raise ValueError(f'the run logged no metric {metric}, what it validated is: {names}')
    epoch_length = max(line['iter'] / line['epoch'] for line in train)
    figure = Figure(figsize=(7, 6), layout='constrained')
    loss_axes, metric_axes = figure.subplots(2, 1, sharex=True)
    loss_axes.plot(
        [line['iter'] / epoch_length for line in train], [line['loss'] for line in train]
    )
    loss_axes.set_ylabel('training loss')
    loss_axes.set_ylim(bottom=0)
    if val:
        values = [100 * line[metric] for line in val]
        metric_axes.plot([line['step'] for line in val], values, 'o-', color='tab:orange')
        last = (val[-1]['step'], values[-1])
        metric_axes.annotate(
            f'{last[1]:.1f} %', last, (-6, -8), textcoords='offset points', ha='right', va='top'
        )
    metric_axes.set_ylabel(f'held-out {metric.removeprefix("acc/")} [%]')
    metric_axes.set_ylim(0, 103)
    metric_axes.set_xlabel('epoch')
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('work_dir', type=Path, help='the folder that training wrote into')
    parser.add_argument('--metric', default=METRIC, help='validation metric to draw')
    parser.add_argument('--out', type=Path, help='default: WORK_DIR/learning_curve.png')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Draw the curve of the run that the arguments name."""
    if find_spec('matplotlib') is None:
        parser.exit(1, f'{parser.prog}: this command needs Matplotlib: pip install matplotlib\n')
    out = args.out or args.work_dir / 'learning_curve.png'
    try:
        scalars = read_scalars(args.work_dir)
        plot(scalars, args.metric, out)
    except (OSError, ValueError) as error:
        parser.exit(1, f'{parser.prog}: {error}\n')
    print(f'The learning curve is saved at {out}.')
    return 0
