"""Configs and recognizers by name, as the tools take them."""

import pytest
import torch
from mmaction.apis import init_recognizer

from mmsifa.apis import load_config, load_recognizer


def test_configs_are_found_by_file_name_and_package(root, tmp_path):
    own = load_config('sifa_r50_k400')
    assert own.model.backbone.type == 'SIFANet'
    assert load_config(root / 'configs/sifa_r50_k400.py').model == own.model
    assert load_config('mmsifa::sifa_r50_k400.py').model == own.model
    assert load_config('mmaction::_base_/models/tsm_r50.py').model.backbone.type == 'ResNetTSM'
    changed = load_config('sifa_r50_k400', {'model.backbone.depth': 101})
    assert changed.model.backbone.depth == 101
    with pytest.raises(ValueError, match=r'no config nope: expected a file, one of mmsifa \(sifa_'):
        load_config('nope')
    with pytest.raises(ValueError, match='nopackage: that package is not installed'):
        load_config('nopackage::config')
    broken = tmp_path / 'broken.py'
    broken.write_text('model = (')
    with pytest.raises(ValueError, match=r'broken\.py cannot be read \(SyntaxError: '):
        load_config(broken)
    empty = tmp_path / 'schedule.py'
    empty.write_text('train_cfg = dict()\n')
    with pytest.raises(ValueError, match=r'schedule.py has no model: give the config of a recogn'):
        load_config(empty)


def test_recognizers_come_with_all_of_their_weights(shrink, tmp_path):
    config = shrink(load_config('sifa_tiny_motion'))
    trained = init_recognizer(config, device='cpu')
    torch.save(trained.state_dict(), tmp_path / 'weights.pth')
    model = load_recognizer(config, tmp_path / 'weights.pth')
    assert not model.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, trained.state_dict()[name]), name
    with pytest.raises(OSError, match=r'missing\.pth'):
        load_recognizer(config, tmp_path / 'missing.pth')
