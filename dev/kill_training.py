"""Kill a training again and again, and see whether it ends as if nothing had happened.

    python dev/kill_training.py OUT.json --kills 20
    python dev/kill_training.py OUT.json --kills 20 --start load_from

Trains a small SIFA-Net once without a break. Then trains it again, ends all its processes by
SIGKILL, at random moments and while it writes a checkpoint by turns, and starts it with --resume
each time, until all kills are done and the last run is through. Weights, optimizer and schedules
of both must be equal bit by bit. With --start it starts from weights, by load_from or by the
backbone's init_cfg, and averages its weights (EMAHook). Writes what happened to OUT.json; ends with
1 if anything differs.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint
from rich.progress import Progress

import mmsifa.__main__
from mmsifa.commands.make_motion_dataset import MotionSettings, make_dataset
from mmsifa.fileio.atomic_write import UNFINISHED, write_atomically

ROOT = Path(__file__).parent.parent
EPOCHS = 4
POLL = 0.001  # seconds
TRAIN = ['run', 'train', 'configs/sifa_tiny_motion.py']
# Processes that need not import PyTorch and MMAction2, which takes longer than the training.
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['mmsifa.__main__', 'mmaction.apis', 'torch._dynamo'])


def small_training(data: Path) -> list[str]:
    """The --cfg-options of a small training: 16 clips in batches of 3, accumulated by twos."""
    settings = [
        f'train_cfg.max_epochs={EPOCHS}',
        'train_cfg.val_interval=2',
        'model.backbone.base_channels=8',
        'model.backbone.stage_blocks=(1,2,1,1)',
        'model.cls_head.in_channels=256',
        'model.cls_head.dropout_ratio=0.5',
        'optim_wrapper.accumulative_counts=2',
        'train_dataloader.batch_size=3',
        'train_dataloader.num_workers=1',
        'train_dataloader.persistent_workers=True',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'default_hooks.logger.interval=1',
        'randomness.seed=0',
    ]
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        settings += [
            f'{dataset}.ann_file={data}/{split}_list_videos.txt',
            f'{dataset}.data_prefix.video={data}/videos_{split}',
        ]
    return settings


def start_from_weights(start: str, settings: list[str], file: Path) -> list[str]:
    """Make weights for the network of a training; return the --cfg-options to start from them."""
    model = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py')
    parts = (setting.split('=', 1) for setting in settings if setting.startswith('model.'))
    model.merge_from_dict({name: ast.literal_eval(value) for name, value in parts})
    init_default_scope('mmaction')
    torch.manual_seed(1)
    torch.save(dict(state_dict=MODELS.build(model.model).state_dict()), file)
    options = [f'load_from={file}']
    if start == 'init_cfg':
        init_cfg = dict(type='Pretrained', checkpoint=file, prefix='backbone.')
        options = [f'model.backbone.init_cfg.{key}={value}' for key, value in init_cfg.items()]
    average = dict(type='EMAHook', momentum=0.1)
    return options + [f'default_hooks.average.{key}={value}' for key, value in average.items()]


def train(arguments: list[str], log: Path) -> None:
    """Run ``mmsifa run train`` in this process, in a process group of its own."""
    os.setsid()
    with log.open('wb') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(ROOT)
    sys.exit(mmsifa.__main__.main([*TRAIN, *arguments]))


class Training:
    """A training in a process group of its own."""

    def __init__(self, work_dir: Path, settings: list[str]):
        self.work_dir = work_dir
        arguments = ['--resume', '--work-dir', str(work_dir), '--cfg-options', *settings]
        work_dir.mkdir(exist_ok=True)
        self.log = work_dir / 'output.txt'
        self.log.write_text('')
        self.process = FORKS.Process(target=train, args=(arguments, self.log))
        self.process.start()
        self.group = self.process.ident or 0

    def wait_until(self, happened) -> bool:
        """Wait until something happens; False if the training ends before."""
        while self.process.is_alive():
            if happened():
                return True
            time.sleep(POLL)
        return False

    def trains(self) -> bool:
        """Whether it has come to its first iteration."""
        return 'Checkpoints will be saved' in self.log.read_text()

    def writes_checkpoint(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.work_dir.glob(UNFINISHED.format('*.pth')))

    def halts_writing(self) -> bool:
        """Halt it while a checkpoint is being written, if one is."""
        if not self.writes_checkpoint():
            return False
        os.killpg(self.group, signal.SIGSTOP)
        time.sleep(POLL)  # until it has
        if self.writes_checkpoint():
            return True
        os.killpg(self.group, signal.SIGCONT)  # the file was finished in between
        return False

    def kill(self) -> None:
        """End all of its processes at once."""
        os.killpg(self.group, signal.SIGKILL)
        self.process.join()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: If it fails.
        """
        self.process.join()
        if self.process.exitcode:
            raise RuntimeError(f'the training failed:\n{self.log.read_text()[-2000:]}')


def differences(expected, found, name='checkpoint') -> list[str]:
    """Names of the tensors and numbers that are not the same bit by bit."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(expected, found) else [name]
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            return [name]
        pairs = [(expected[key], found[key], f'{name}.{key}') for key in expected]
    elif isinstance(expected, (list, tuple)):
        if len(expected) != len(found):
            return [name]
        pairs = [
            (a, b, f'{name}.{i}') for i, (a, b) in enumerate(zip(expected, found, strict=True))
        ]
    else:
        return [] if expected == found else [name]
    return [difference for pair in pairs for difference in differences(*pair)]


def last_checkpoint(work_dir: Path) -> dict:
    """What a run would resume from; loading fails if it is not whole."""
    checkpoint = _load_checkpoint((work_dir / 'last_checkpoint').read_text(), map_location='cpu')
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    return {key: checkpoint[key] for key in kept if key in checkpoint}


def kill_somewhere(training: Training, in_write: bool, delay: float, skip: int) -> bool:
    """Kill a training, unless it ends before.

    Args:
        training: The training, just started.
        in_write: Whether to kill it while it writes a checkpoint.
        delay: Seconds of training before the kill, otherwise.
        skip: How many checkpoints to let pass, if in_write.

    Returns:
        Whether it was killed.
    """
    there = training.wait_until(training.trains)
    if in_write:
        for _ in range(skip):
            training.wait_until(training.writes_checkpoint)
            training.wait_until(lambda: not training.writes_checkpoint())
        there = training.wait_until(training.halts_writing)
    else:
        end = time.monotonic() + delay
        there = there and training.wait_until(lambda: time.monotonic() > end)
    if there:
        training.kill()
    return there


def main() -> int:
    """Run the trial that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='JSON file for what happened')
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0, help='of the moments of the kills')
    parser.add_argument('--start', choices=('nothing', 'load_from', 'init_cfg'), default='nothing')
    args = parser.parse_args()

    moments = random.Random(args.seed)
    os.environ.update(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    found = dict(kills=0, kills_while_writing=0, runs_compared=0, values_that_differ=0)
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        bar = progress.add_task('Killing', total=args.kills + 2)
        data = Path(folder, 'motion')
        make_dataset(data, MotionSettings(num_train=16, num_val=9, num_frames=18))

        settings = small_training(data)
        if args.start != 'nothing':
            settings += start_from_weights(args.start, settings, Path(folder, 'weights.pth'))

        whole = Training(Path(folder, 'whole'), settings)
        whole.wait_until(whole.trains)
        start = time.monotonic()
        whole.finish()
        duration = time.monotonic() - start
        expected = last_checkpoint(whole.work_dir)
        progress.advance(bar)

        work_dir = Path(folder, 'killed')
        while True:
            training = Training(work_dir, settings)
            if found['kills'] < args.kills:
                in_write = found['kills'] % 2 == 1
                delay, skip = moments.uniform(0, duration), moments.randrange(2)
                if kill_somewhere(training, in_write, delay, skip):
                    found['kills'] += 1
                    found['kills_while_writing'] += training.writes_checkpoint()
                    progress.advance(bar)
                    continue
            training.finish()
            different = differences(expected, last_checkpoint(work_dir))
            found['runs_compared'] += 1
            found['values_that_differ'] += len(different)
            if different:
                print(f'run {found["runs_compared"]} differs in {", ".join(different[:5])}')
            if found['kills'] == args.kills:
                break
            work_dir = Path(folder, f'killed_{found["runs_compared"]}')

    write_atomically(args.out, json.dumps(found, indent=4, allow_nan=False) + '\n')
    print(json.dumps(found, allow_nan=False))
    return int(found['values_that_differ'] > 0)


if __name__ == '__main__':
    sys.exit(main())
