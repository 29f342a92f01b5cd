"""docs/training.md: every config snippet trains, every command runs, and they do what it says."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import CheckpointLoader, Runner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/training.md').read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)


SNIPPETS = blocks('python')
COMMANDS = [
    line
    for text in blocks('bash')
    for line in text.splitlines()
    if line.startswith(('mim train', 'mmsifa run'))
]
# What the log says where a command did what the page says
SAYS = {
    'my_config.py': "type='SIFANet'",
    '--auto-scale-lr': 'current batch size is 8. Scaling the original LR by 0.5',
    '--amp': "dtype='bfloat16'",
}


def snippet(word: str) -> Config:
    """The one snippet that has a word in it, as a config."""
    (text,) = (text for text in SNIPPETS if word in text)
    return Config.fromstring(text, '.py')


@pytest.fixture
def train(shrink, tmp_path):
    """Train a snippet's network, made small, for an epoch of two batches."""

    def train(word: str, **changes) -> Runner:
        cfg = shrink(snippet(word))
        cfg.work_dir = str(tmp_path)
        cfg.merge_from_dict(changes)
        runner = Runner.from_cfg(cfg)
        runner.train()
        assert (tmp_path / 'epoch_1.pth').is_file()
        return runner

    return train


def test_every_snippet_and_command_has_its_test():
    words = ('AmpOptimWrapper', 'accumulative_counts', 'EMAHook', 'with_cp', 'frozen_stages')
    assert len(SNIPPETS) == 6
    assert all(snippet(word) for word in (*words, 'paramwise_cfg'))
    assert [[word for word in SAYS if word in command] for command in COMMANDS] == [
        ['my_config.py'],
        ['--auto-scale-lr'],
        ['--amp'],
    ]


def test_amp_snippet_computes_in_bfloat16(train):
    wrapper = train('AmpOptimWrapper').optim_wrapper
    assert isinstance(wrapper, AmpOptimWrapper)
    assert wrapper.cast_dtype == torch.bfloat16


def test_accumulation_snippet_leaves_the_update_as_it_was(train):
    updates = []
    for cfg in (Config.fromfile(ROOT / 'configs/sifa_r50_k400.py'), snippet('accumulative')):
        batch = cfg.train_dataloader.batch_size
        devices = cfg.auto_scale_lr.base_batch_size / batch
        weight = cfg.model.cls_head.loss_cls.loss_weight
        updates.append((batch * cfg.optim_wrapper.accumulative_counts, devices, weight))
    assert updates == [(96, 4, 4), (96, 4, 4)]
    assert train('accumulative').optim_wrapper._accumulative_counts == 16


def test_accumulation_table_is_that_of_the_configs():
    rows = re.findall(r'\| (SIFA-.*?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|', PAGE)
    configs = {
        'SIFA-Net, Kinetics, 16 frames': r'sifa_r\d+_k\d00',
        'SIFA-Net, Kinetics, 32 frames': r'sifa_r\d+_32f_k\d00',
        'SIFA-Net, Something-Something': r'sifa_r\d+_sthv\d',
        'SIFA-Transformer': r'sifa_swin_._\w+',
    }
    assert [row[0] for row in rows] == list(configs)
    seen = 0
    for name, *numbers in rows:
        batch, counts, clips, weight = map(int, numbers)
        assert clips == batch * counts
        for path in (ROOT / 'configs').glob('*.py'):
            if re.fullmatch(configs[name], path.stem):
                seen += 1
                cfg = Config.fromfile(path)
                assert cfg.train_dataloader.batch_size == batch
                assert cfg.optim_wrapper.get('accumulative_counts', 1) == counts
                assert cfg.model.cls_head.get('loss_cls', {}).get('loss_weight', 1) == weight
    assert seen == 24


def test_ema_snippet_averages_and_evaluates_by_the_average(train):
    """With its batches averaged at once and by a quarter, so that two of them show it."""
    changes = {'custom_hooks.0.interval': 1, 'custom_hooks.0.momentum': 0.25}
    runner = train('EMAHook', **changes, **{'optim_wrapper.accumulative_counts': 1})
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    weight = runner.model.backbone.layer4[0].conv1.conv.weight
    average = hook.ema_model.module.backbone.layer4[0].conv1.conv.weight
    old, new, name = average.clone(), weight.clone(), 'backbone.layer4.0.conv1.conv.weight'
    assert not torch.equal(old, new)

    used = []
    runner.model.backbone.register_forward_hook(lambda *_: used.append(weight.clone()))
    runner.val_loop.run()
    assert used
    assert all(torch.equal(seen, old) for seen in used)
    assert torch.equal(weight, new)

    checkpoint = CheckpointLoader.load_checkpoint(f'{runner.work_dir}/epoch_1.pth')
    assert torch.equal(checkpoint['state_dict'][name], old)
    assert torch.equal(checkpoint['ema_state_dict'][f'module.{name}'], new)

    hook.ema_model.update_parameters(runner.model)
    torch.testing.assert_close(average, 0.75 * old + 0.25 * new)  # the page's formula


def test_ema_snippet_averages_once_an_update():
    cfg = snippet('EMAHook')
    (hook,) = cfg.custom_hooks
    assert hook.interval == cfg.optim_wrapper.accumulative_counts
    assert f'1 / {hook.momentum} = {round(1 / hook.momentum)}' in PAGE


def test_checkpointing_snippet_reaches_every_block(train):
    backbone = train('with_cp').model.backbone
    blocks = [m for m in backbone.modules() if hasattr(m, 'with_cp')]
    assert len(blocks) == 1 + 2 + 1 + 2 + 2
    assert all(block.with_cp for block in blocks)


def test_frozen_snippet_keeps_stages_and_statistics(train):
    backbone = train('frozen_stages').model.backbone
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(('conv1.', 'layer1.', 'layer2.'))
        assert parameter.requires_grad != frozen, name
    for name, buffer in backbone.named_buffers():
        if name.endswith('num_batches_tracked'):
            assert buffer == 0, name


def test_groups_snippet_changes_the_rates_of_the_temporal_parts(train):
    runner = train('paramwise_cfg')
    groups = {id(p): g for g in runner.optim_wrapper.param_groups for p in g['params']}
    rates = {}
    for name, parameter in runner.model.named_parameters():
        inner = [part for part in ('conv_offset', 'temporal') if f'.{part}.' in name]
        rate = round(groups[id(parameter)]['initial_lr'], 9)
        rates.setdefault((inner or name.split('.'))[0], set()).add(rate)
    assert rates == {
        'backbone': {1e-4}, 'temporal': {5e-4}, 'conv_offset': {5e-4}, 'cls_head': {1e-3},
    }  # fmt: skip


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_runs(command, motion_data, run, forked, tmp_path):
    """With a small network, in a folder that has the page's files."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/motion').symlink_to(motion_data)
    (tmp_path / 'my_config.py').write_text("_base_ = 'mmsifa::sifa_tiny_motion.py'\n")
    small = ['model.backbone.stage_blocks=(1,1,1,1)', 'train_cfg.max_epochs=1']
    small += [f'{split}_dataloader.num_workers=0' for split in ('train', 'val')]
    small += [f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')]
    if '--cfg-options' not in command:
        small.insert(0, '--cfg-options')
    env = forked | {'PYTHONWARNINGS': 'ignore'}
    text = run('bash', '-c', f'{command} "$@"', 'page', *small, cwd=tmp_path, env=env).stdout
    for word, said in SAYS.items():
        if word in command:
            assert said in text
    (record,) = tmp_path.glob('work_dirs/*/*/vis_data/scalars.json')
    assert any('acc/top1' in json.loads(line) for line in record.read_text().splitlines())


def test_mmaction2_writes_the_lists_that_the_configs_read(run, forked, tmp_path):
    """With stand-ins for the videos, in the page's layout."""
    data = tmp_path / 'data'
    for name in ('kinetics400', 'kinetics600'):
        (data / name / 'annotations').mkdir(parents=True)
        for split in ('train', 'val', 'test'):
            lines = ['label,youtube_id,time_start,time_end,split']
            if split == 'test':
                lines = ['youtube_id,time_start,time_end,split']
            else:
                for i, label in enumerate(('play chess', 'ski')):
                    video = data / name / f'videos_{split}' / label.replace(' ', '_')
                    video.mkdir(parents=True)
                    (video / f'{split}-{i}_000010_000020.mp4').touch()
                    lines.append(f'{label},{split}-{i},10,20,{split}')
            (data / name / f'annotations/kinetics_{split}.csv').write_text('\n'.join(lines) + '\n')
    v1, v2 = data / 'sthv1', data / 'sthv2'
    for folder in (v1 / 'annotations', v2 / 'annotations', v2 / 'videos'):
        folder.mkdir(parents=True)
    labels = ['Pushing a thing', 'Lifting a thing']
    prefix = v1 / 'annotations/something-something-v1'
    Path(f'{prefix}-labels.csv').write_text(''.join(f'{label}\n' for label in labels))
    prefix2 = v2 / 'annotations/something-something-v2'
    Path(f'{prefix2}-labels.json').write_text(json.dumps({labels[0]: '0', labels[1]: '1'}))
    for first, split in ((0, 'train'), (2, 'validation'), (4, 'test')):
        ids = [str(first), str(first + 1)]
        for video in ids:
            (v1 / 'rawframes' / video).mkdir(parents=True)
            for t in range(1, 4):
                frame = v1 / 'rawframes' / video / f'{t:05}.jpg'
                cv2.imwrite(str(frame), np.zeros((8, 8, 3), np.uint8))
            (v2 / 'videos' / f'{video}.webm').touch()
        rows = [f'{video};{label}\n' for video, label in zip(ids, labels, strict=True)]
        Path(f'{prefix}-{split}.csv').write_text(''.join(rows))
        rows = [
            dict(id=video, template=label.replace('a thing', '[a thing]'))
            for video, label in zip(ids, labels, strict=True)
        ]
        Path(f'{prefix2}-{split}.json').write_text(json.dumps(rows))

    (script,) = (text for text in blocks('bash') if 'build_file_list' in text)
    run('bash', '-e', '-c', script, cwd=tmp_path, env=forked)
    for name in ('k400', 'k600', 'sthv1', 'sthv2'):
        cfg = Config.fromfile(ROOT / f'configs/sifa_r50_{name}.py')
        for split in ('train', 'val', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            dataset.ann_file = str(tmp_path / dataset.ann_file)
            dataset.data_prefix = {
                kind: str(tmp_path / folder) for kind, folder in dataset.data_prefix.items()
            }
            dataset.pipeline = []
            items = list(DATASETS.build(dataset))
            assert sorted(item['label'] for item in items) == [0, 1]
            for item in items:
                if name == 'sthv1':
                    frame = Path(item['frame_dir'], item['filename_tmpl'].format(1))
                    assert item['total_frames'] == 3
                    assert item['start_index'] == 1
                else:
                    frame = Path(item['filename'])
                assert frame.is_file()
