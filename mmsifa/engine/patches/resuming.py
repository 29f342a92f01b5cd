"""Patches of what a run resumes from and what of it counts.

With ``resume=True`` the last checkpoint of the work folder is resumed, wherever that folder is now.
If there is none yet, ``load_from`` gives the weights that the run starts from. ``resume='FILE'``
goes on with another run's checkpoint where the work folder has none. What the config says then
counts: a changed schedule, rate or weight decay too.
"""

import functools
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, Runner

# What changes in a scheduler's state while it steps; the rest are its settings
PROGRESS = {
    *('last_step', '_global_step', '_last_value', 'verbose'),
    *('best', 'num_bad_epochs', 'cooldown_counter'),
}


@functools.cache
def patch_resuming():
    """A run that started from ``load_from`` loses data (mmengine/runner/runner.py:1679, :1997).

    FlexibleRunner has the same lines. With ``resume`` they take ``load_from`` for the run's own
    checkpoint; MMAction2's ``train.py --resume`` drops it. A resumed checkpoint's schedule and
    rates override the config's, and a work folder cannot be moved.
    """
    for cls in (Runner, FlexibleRunner):
        cls.load_or_resume = _deciding(cls.load_or_resume)
        cls.resume = _adopting(cls.resume)
    upstream = Config.merge_from_dict

    @functools.wraps(upstream)
    def merge_from_dict(self, options, *args, **kwargs):
        upstream(self, options, *args, **kwargs)
        if options.get('load_from', '') is None:
            self.load_from = ''  # asked for, where None may be what --resume has dropped

    Config.merge_from_dict = merge_from_dict


def run_folders(runner) -> list[str]:
    """The folders of a run's checkpoints: its work folder, and where its hooks save."""
    folders = [os.path.abspath(runner.work_dir)]
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.out_dir:
            folders.append(_absolute(os.path.join(hook.out_dir, os.path.basename(folders[0]))))
    return folders


def last_checkpoint(runner) -> str | None:
    """Find the checkpoint that a run goes on from.

    Args:
        runner: The runner.

    Returns:
        The one that ``last_checkpoint`` in the work folder names, looked for in the folders that
        the run has now; if it does not, or names none that is there, the newest one in them. None
        if the run has not begun.

    Raises:
        ValueError: If one is named, and none is there.
    """
    folders = run_folders(runner)
    pointer = Path(runner.work_dir, 'last_checkpoint')
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    if named:
        here = [os.path.join(folder, os.path.basename(named)) for folder in folders]
        for path in [named, *here] if _folder(named) in folders else here:
            if _is_there(path):
                return path
    saved = [path for folder in folders for path in _saved(runner, folder)]
    if saved:
        newest = max(saved, key=lambda path: path.stat().st_mtime_ns)
        named = f'names {named}, which is not in this folder' if named else 'names none'
        runner.logger.warning(f'{pointer} {named}: the newest checkpoint beside it is {newest}')
        return str(newest)
    if named and _is_there(named):
        return named
    if named:
        raise ValueError(
            f'{pointer} names {named}, which is not there, nor is another checkpoint of this run: '
            f'bring it back, or delete {pointer} to start anew'
        )
    return None


def _is_there(path: str) -> bool:
    sharded = path.endswith('.pth') and os.path.isdir(path)
    return '://' in path or os.path.isfile(path) or sharded


def _saved(runner, folder: str) -> list[Path]:
    """A run's regular checkpoints in a folder, and one made at a signal."""
    templates = {hook.filename_tmpl for hook in runner.hooks if isinstance(hook, CheckpointHook)}
    patterns = [re.escape(name).replace(r'\{\}', r'\d+') for name in (*templates, 'iter_{}.pth')]
    return [
        path
        for path in Path(folder).glob('*')
        if any(re.fullmatch(pattern, path.name) for pattern in patterns)
    ]


def _deciding(upstream: Callable) -> Callable:
    @functools.wraps(upstream)
    def load_or_resume(self):
        self._load_from = self._load_from or None
        # Not where a run only tests; private to MMEngine
        trains = isinstance(self._train_loop, BaseLoop) and not self._has_loaded
        if not (trains and self._resume):
            return upstream(self)
        self._load_from, self._resume, decision = _on_first_rank(lambda: _decide(self))
        self.logger.info(decision)
        upstream(self)
        loop = self._train_loop
        unit = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
        done, end = getattr(loop, unit), getattr(loop, f'max_{unit}s')
        if done >= end:
            self.logger.warning(
                f'{unit} {done} is trained and train_cfg.max_{unit}s is {end}: nothing is left to '
                'train'
            )

    return load_or_resume


def _decide(runner) -> tuple[str | None, bool, str]:
    """What to load, whether it is resumed, and a sentence that says so."""
    load_from, resume = runner._load_from, runner._resume
    if runner.cfg.get('load_from', None) is None and load_from is None:
        load_from = _load_from_in_file(runner.cfg.filename)
    other = resume if isinstance(resume, str) else load_from
    if own := last_checkpoint(runner):
        given = f', not from {other}' if other and _absolute(other) != _absolute(own) else ''
        return own, True, f'The run in {runner.work_dir} goes on from its checkpoint {own}{given}.'
    begins = f'There is no checkpoint in {runner.work_dir} yet: the run'
    if isinstance(resume, str):
        return resume, True, f'{begins} goes on with the checkpoint {resume} of another run.'
    if load_from is None:
        return None, False, f'{begins} starts anew.'
    return load_from, False, (
        f'{begins} starts its first epoch, from the weights of {load_from}. To go on with the run '
        f'of that file, use --cfg-options resume={load_from}'
    )  # fmt: skip


def _load_from_in_file(config: str | None) -> str | None:
    """What the config file says, of which ``train.py --resume`` makes None."""
    return Config.fromfile(config).get('load_from') if config and os.path.isfile(config) else None


def _on_first_rank(decide: Callable) -> Any:
    """Let the first rank decide for all, since others may see other files; errors are for all."""
    decided: list = [None]
    if is_main_process():
        try:
            decided = [decide()]
        except (ValueError, OSError) as error:
            decided = [error]
    broadcast_object_list(decided)
    if isinstance(decided[0], Exception):
        raise decided[0]
    return decided[0]


def _adopting(upstream: Callable) -> Callable:
    @functools.wraps(upstream)
    def resume(self, filename, *args, **kwargs):
        def after_load_checkpoint(runner, checkpoint):
            if not {'meta', 'message_hub'} <= checkpoint.keys():
                raise ValueError(
                    f'{filename} holds weights, but not the state of a training, which resuming '
                    'needs: give it as load_from'
                )
            _adopt_files(runner, filename, checkpoint)
            _adopt_settings(runner, checkpoint)

        adopt = SimpleNamespace(after_load_checkpoint=after_load_checkpoint)
        self._hooks.append(adopt)
        try:
            upstream(self, filename, *args, **kwargs)
        finally:
            self._hooks.remove(adopt)

    return resume


def _adopt_files(runner, filename: str, checkpoint: dict) -> None:
    """Keep the paths of the run's own earlier files, where they are now, and forget all others.

    MMEngine removes these files when newer or better ones come.
    """
    folders, folder = run_folders(runner), _folder(filename)
    hub = checkpoint.get('message_hub', {})
    infos = hub.get('runtime_info', {})
    before = _folder(infos.get('last_ckpt'))
    for key, value in list(infos.items()):
        if value is None or not ('_ckpt' in key or key.startswith('best_score')):
            continue
        own = folder in folders
        if key == 'keep_ckpt_ids':
            own &= isinstance(value, list) and all(isinstance(step, int) for step in value)
        elif '_ckpt' in key and own and _folder(value) not in folders:
            own = _folder(value) == before != ''
            if own:  # the folder was moved
                infos[key] = os.path.join(folder, os.path.basename(value))
        if not own:
            runner.logger.warning(
                f'the checkpoint names {value} as its {key}, expected that of a run in '
                f'{runner.work_dir}: it does not count, and files are left alone'
            )
            del infos[key]
            hub.get('resumed_keys', {}).pop(key, None)


def _adopt_settings(runner, checkpoint: dict) -> None:
    """Let the config's schedule and hyper-parameters count, at the checkpoint's position."""
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers or []
    if isinstance(wrapper, OptimWrapperDict) or not isinstance(wrapper, OptimWrapper):
        return  # several optimizers, or none yet: as in MMEngine
    optimizer, saved = checkpoint.get('optimizer'), checkpoint.get('param_schedulers') or []
    for scheduler, theirs in zip(schedulers, saved, strict=False):
        # Depends on validations, but another end that is still to come changes nothing so far
        ends = getattr(scheduler, 'end', 0), theirs.get('end', 0)
        if getattr(scheduler, 'need_val_args', False) and min(ends) >= theirs['last_step']:
            theirs['end'] = scheduler.end
    changes = _changes(schedulers, saved)
    scheduled = {scheduler.param_name for scheduler in schedulers}
    if any(getattr(scheduler, 'use_betas', False) for scheduler in schedulers):
        scheduled.add('betas')  # whose first is Adam's momentum
    differ = f'the schedule is not that of the checkpoint ({"; ".join(changes)})'
    by_validations = any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers)
    if changes or (optimizer is None and not by_validations):
        if by_validations:
            raise ValueError(
                f'{differ} and depends on results of validations, so its value at this point is '
                'unknown: give the schedule that the run had, or start another run from its '
                'weights by load_from'
            )
        _run_to(runner, schedulers, checkpoint)
        checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
        if changes:
            runner.logger.warning(f"{differ}: the config's counts, from the position reached")
    if optimizer is None:
        return
    momenta = [
        {'momentum', 'betas'} & group.keys()
        for group in (optimizer['param_groups'][0], wrapper.param_groups[0])
    ]
    if momenta[0] != momenta[1]:
        raise ValueError(
            f"the checkpoint's optimizer is of another kind than {type(wrapper.optimizer).__name__}"
            ', whose state is unknown: give the optimizer that the run had, or start another run '
            'from its weights by load_from'
        )
    groups = [*optimizer['param_groups'], *filter(None, [optimizer.get('base_param_settings')])]
    notes: dict[str, None] = {}
    for group, ours in zip(groups, wrapper.param_groups, strict=False):
        for key in ours.keys() - {'params'}:
            if not changes and key in scheduled:
                continue  # what the schedule has reached
            same = _plain(group.get(key, ours[key])) == _plain(ours[key])
            if not same and key.removeprefix('initial_') not in scheduled:
                notes[f'{key} {group[key]} -> {ours[key]}'] = None
            group[key] = ours[key]
    if notes:
        runner.logger.warning(
            f"the optimizer's settings are not those of the checkpoint ({_few(list(notes))}): "
            "the config's count"
        )


def _changes(schedulers: Sequence[_ParamScheduler], saved: Sequence[dict]) -> list[str]:
    """In what the schedules of the config and of a checkpoint differ."""
    if len(schedulers) != len(saved):
        return [f'{len(saved)} schedulers -> {len(schedulers)}']
    changes = []
    for scheduler, theirs in zip(schedulers, saved, strict=True):
        ours, name = scheduler.state_dict(), type(scheduler).__name__
        if ours.keys() != theirs.keys():
            changes.append(f'another scheduler -> {name}')
            continue
        differ = sorted(k for k in ours.keys() - PROGRESS if _plain(ours[k]) != _plain(theirs[k]))
        changes += [f'{name}: {key} {_short(theirs[key])} -> {_short(ours[key])}' for key in differ]
    return changes


def _run_to(runner, schedulers: Sequence[_ParamScheduler], checkpoint: dict) -> None:
    """Let fresh schedulers make the steps that they would have made up to a checkpoint."""
    epochs, iterations = checkpoint['meta']['epoch'], checkpoint['meta']['iter']
    length = len(runner.train_dataloader)
    # Of epochs that had another number of iterations, with other batches or processes
    in_epochs = iterations
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        infos = checkpoint.get('message_hub', {}).get('runtime_info', {})
        batch = runner.train_dataloader.batch_sampler.batch_size * get_world_size()
        in_epochs = epochs * length + infos.get('samples_used_in_epoch', 0) // batch
    configs = runner.cfg.get('param_scheduler') or []
    configs = configs if isinstance(configs, list) else [configs]
    converted = [bool(config.get('convert_to_iter_based')) for config in configs]
    steps = [
        in_epochs if i < len(converted) and converted[i] else iterations
        for i in range(len(schedulers))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of steps without updates
        for done in range(1, max(epochs * length, *steps, 0) + 1):
            for scheduler, last in zip(schedulers, steps, strict=True):
                if not scheduler.by_epoch and done <= last:
                    scheduler.step()
            if done % length == 0 and done // length <= epochs:
                for scheduler in schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()


def _absolute(path: str) -> str:
    return path if '://' in path else os.path.abspath(path)


def _folder(path: Any) -> str:
    return os.path.dirname(_absolute(path)) if isinstance(path, str) and path else ''


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return _few(value) if isinstance(value, (list, tuple)) else str(value)


def _few(values: Sequence) -> str:
    return ', '.join(map(str, values[:3])) + (', ...' if len(values) > 3 else '')
