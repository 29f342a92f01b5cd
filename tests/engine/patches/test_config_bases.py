"""Patches of the configs that a config may inherit from."""

import mmengine
import pytest
from mmaction.models.heads import TSNHead
from mmengine.config import Config

from mmsifa.engine.patches import config_bases


@pytest.fixture
def installed_configs(tmp_path, monkeypatch):
    folder = tmp_path / 'mmsifa/.mim/configs'
    (folder / '_base_').mkdir(parents=True)
    (folder / '_base_/model.py').write_text("model = dict(type='Recognizer2D')")
    (folder / 'sifa_tiny.py').write_text("_base_ = '_base_/model.py'\nhead = dict(type='TSNHead')")
    monkeypatch.setattr(config_bases, 'config_folder', lambda: folder)
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
