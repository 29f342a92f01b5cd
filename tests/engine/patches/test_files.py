"""Patches of files: checkpoints that are read and written, and the bases of configs."""

import mmengine
import numpy as np
import pytest
import torch
from mmaction.models.heads import TSNHead
from mmengine.config import Config
from mmengine.fileio import LocalBackend

from mmsifa.commands import run_tool as run
from mmsifa.engine.patches import files


def test_resume_restores_the_history_and_goes_on(build_runner, trained, tmp_path):
    checkpoint, losses = trained
    options = {'resume': str(checkpoint), 'train_cfg.max_epochs': 2}
    runner = build_runner(tmp_path, 'resumed', **options)
    runner.train()
    history, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(history) == 2 * len(losses) == 8
    np.testing.assert_array_equal(history[:4], losses)

    # What is saved again names no stand-in, so that MMEngine reads it without mmsifa.
    saved = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / 'epoch_2.pth')
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in saved
    assert not [name for name in saved if name.startswith('mmsifa')]


def test_the_test_tool_loads_a_checkpoint(tiny, trained, tmp_path, capsys):
    run.run_tool('test', [str(tiny), str(trained[0]), '--work-dir', str(tmp_path)])
    assert 'acc/top1' in capsys.readouterr().out


def test_local_files_are_written_whole(tmp_path):
    LocalBackend().put(b'content', str(tmp_path / 'new folder/file'))
    assert (tmp_path / 'new folder/file').read_bytes() == b'content'


@pytest.fixture
def installed_configs(tmp_path, monkeypatch):
    folder = tmp_path / 'mmsifa/.mim/configs'
    (folder / '_base_').mkdir(parents=True)
    (folder / '_base_/model.py').write_text("model = dict(type='Recognizer2D')")
    (folder / 'sifa_tiny.py').write_text("_base_ = '_base_/model.py'\nhead = dict(type='TSNHead')")
    monkeypatch.setattr(files, 'config_folder', lambda _: folder)
    return tmp_path / 'leaf.py'


@pytest.mark.parametrize('base', ['sifa_tiny.py', '_base_/model.py'], ids=['flat', 'subfolder'])
def test_a_config_inherits_from_ours(installed_configs, base):
    installed_configs.write_text(f"_base_ = 'mmsifa::{base}'")
    assert Config.fromfile(installed_configs).model.type == 'Recognizer2D'


def test_what_a_config_takes_from_its_base_is_built_by_mmaction(installed_configs):
    installed_configs.write_text("_base_ = 'mmsifa::sifa_tiny.py'\nhead = _base_.head")
    config = Config.fromfile(installed_configs)
    head = mmengine.registry.MODELS.build({**config.head, 'num_classes': 2, 'in_channels': 2})
    assert isinstance(head, TSNHead)


def test_an_unknown_base_lists_ours(installed_configs):
    installed_configs.write_text("_base_ = 'mmsifa::sifa_big.py'")
    with pytest.raises(FileNotFoundError, match=r"mmsifa::sifa_big.py.*\['sifa_tiny.py'\]"):
        Config.fromfile(installed_configs)


def test_other_bases_are_found_as_before(installed_configs):
    (installed_configs.parent / 'near.py').write_text('x = 1')
    installed_configs.write_text("_base_ = ['mmaction::_base_/default_runtime.py', 'near.py']")
    config = Config.fromfile(installed_configs)
    assert (config.default_scope, config.x) == ('mmaction', 1)


def test_a_base_of_mmaction2_is_found_without_its_metafiles(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.utils.load', lambda path: pytest.fail(f'read {path}'))
    monkeypatch.setattr('mmengine.config.config.is_installed', pytest.fail)
    (tmp_path / 'leaf.py').write_text("_base_ = 'mmaction::_base_/default_runtime.py'")
    assert Config.fromfile(tmp_path / 'leaf.py').default_scope == 'mmaction'
    monkeypatch.undo()
    (tmp_path / 'leaf.py').write_text("_base_ = 'mmaction::_base_/default.py'")
    with pytest.raises(FileNotFoundError, match=r'configs/_base_/default\.py'):
        Config.fromfile(tmp_path / 'leaf.py')
