"""A file with an ``argparse.Namespace``: refused, loaded where its user says so, refused again."""

import argparse
import hashlib
import re

import hostile_checkpoints as hostile
import pytest
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmsifa.__main__ import main
from mmsifa.checkpoints import CheckpointError, load_trusted, safe_loading, write_weights

REFUSED = (
    r'mae\.pth: it asks for argparse\.Namespace, expected tensors, .*; if you trust whoever made '
    r"the file, write its weights alone into another one by 'mmsifa convert --trust IN OUT'"
)


@pytest.fixture
def mae(tmp_path):
    """A file as those of MAE are: weights, and the arguments of the command that trained them."""
    path = tmp_path / 'mae.pth'
    args = argparse.Namespace(lr=0.1, output_dir='out')
    torch.save({'model': torch.nn.Linear(2, 1).state_dict(), 'args': args, 'epoch': 3}, path)
    return path


def assert_refused(path):
    with pytest.raises(CheckpointError, match=REFUSED):
        load_checkpoint(torch.nn.Linear(2, 1), str(path))
    with safe_loading(), pytest.raises(CheckpointError, match=REFUSED):
        torch.load(path, weights_only=False)


def test_trust_counts_for_one_load(mae):
    assert_refused(mae)
    before = torch.load, set(torch.serialization.get_safe_globals())
    loaded = load_trusted(mae)
    assert loaded['args'] == argparse.Namespace(lr=0.1, output_dir='out')
    assert loaded['model']['weight'].shape == (1, 2)
    assert (torch.load, set(torch.serialization.get_safe_globals())) == before
    assert_refused(mae)


def test_a_trusted_file_loads_while_others_are_loaded_safely(mae):
    with safe_loading():
        assert load_trusted(mae)['epoch'] == 3
        assert_refused(mae)


def test_only_the_file_of_the_given_hash_is_trusted(mae):
    content = mae.read_bytes()
    right = hashlib.sha256(content).hexdigest()
    assert load_trusted(mae, sha256=right.upper())['epoch'] == 3
    hostile.write('command', mae)
    with pytest.raises(CheckpointError, match=rf'its SHA-256 is \w{{64}}, expected {right}; fetch'):
        load_trusted(mae, sha256=right)
    assert not (mae.parent / hostile.MARKER).exists()


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04'])
def test_what_is_no_checkpoint_is_said_to_be_none(content, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r'cannot load the checkpoint .*a\.pth \([\w.]+: .*again'
    ):
        load_trusted(tmp_path / 'a.pth')


def test_a_class_that_is_not_here_is_named(mae):
    hostile._replace(mae, b'argparse', b'elsewher')
    with pytest.raises(CheckpointError, match=r"No module named 'elsewher'\), .* run this where"):
        load_trusted(mae)


# A config cannot trust a file


ATTEMPTS = {
    'pretrained': dict(trust=True),
    'init_cfg': dict(
        pretrained=None, init_cfg=dict(type='Pretrained', checkpoint='mae.pth', trust=True)
    ),
    'scheme': dict(pretrained='trusted://mae.pth'),
}


@pytest.mark.parametrize('backbone', ATTEMPTS.values(), ids=ATTEMPTS)
def test_no_option_of_a_network_trusts(backbone, mae, root, monkeypatch):
    monkeypatch.chdir(mae.parent)
    model = Config.fromfile(root / 'configs/sifa_tiny_motion.py').model
    model.backbone.update(dict(pretrained='mae.pth') | backbone)
    with pytest.raises((CheckpointError, TypeError, OSError)):
        MODELS.build(model).init_weights()


def test_what_a_config_imports_or_a_variable_sets_does_not_trust(mae, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert_refused(mae)


# Weights alone


def test_weights_alone_load_everywhere(mae, tmp_path):
    checkpoint = load_trusted(mae)
    names, beside = write_weights(checkpoint, tmp_path / 'weights.pth')
    assert (names, beside) == (['weight', 'bias'], ['args', 'epoch'])
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / 'weights.pth')
    model = torch.nn.Linear(2, 1)
    load_checkpoint(model, str(tmp_path / 'weights.pth'), strict=True)
    assert torch.equal(model.weight, checkpoint['model']['weight'])


def test_weights_are_written_without_what_they_are_parts_of(tmp_path):
    large = torch.nn.Parameter(torch.zeros(10**6))
    names, beside = write_weights({'a': large[:2], 'b': 'text', 3: large}, tmp_path / 'a.pth')
    assert (names, beside) == (['a'], ['b', '3'])
    assert (tmp_path / 'a.pth').stat().st_size < 10**4


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        ({'teacher': {}, 'student': {}}, r"got one of \['student', 'teacher'\]: pick them out"),
        ({'model': torch.nn.Linear(1, 1)}, 'a dict of weights as its model, got Linear'),
        ([], 'a dict of weights, got list'),
        ({'a': torch.eye(2).to_sparse()}, 'refused to load .* it asks for torch'),
    ],
    ids=['elsewhere', 'module', 'list', 'sparse'],
)
def test_what_is_no_weights_is_not_written(checkpoint, message, tmp_path):
    with pytest.raises(ValueError, match=re.compile(message)):
        write_weights(checkpoint, tmp_path / 'a.pth')
    assert not list(tmp_path.iterdir())


def test_the_command_writes_weights_that_a_network_takes(mae, root, capsys):
    model = Config.fromfile(root / 'configs/sifa_tiny_motion.py').model
    net = MODELS.build(model.backbone)
    weights = {name: torch.ones_like(value) for name, value in net.state_dict().items()}
    torch.save({'model': weights, 'args': argparse.Namespace()}, mae)
    out = mae.parent / 'weights.pth'
    with pytest.raises(SystemExit, match=r'^2$'):
        main(['convert', str(mae), str(out)])
    assert re.search(REFUSED, capsys.readouterr().err)
    assert not out.exists()
    assert main(['convert', '--trust', str(mae), str(out)]) == 0
    assert capsys.readouterr().out == f'weights: {len(weights)}\nnot used: args\n'
    model.backbone.update(pretrained=None, init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    net = MODELS.build(model.backbone)
    net.init_weights()
    assert torch.equal(net.state_dict()['conv1.conv.weight'], weights['conv1.conv.weight'])
    assert_refused(mae)


def test_the_command_says_in_one_sentence_what_is_wrong(mae, tmp_path, capsys):
    (tmp_path / 'text.pth').write_text('no checkpoint')
    torch.save({'teacher': {}}, tmp_path / 'teacher.pth')
    for arguments, message in (
        (
            ['text.pth', 'out.pth'],
            r'cannot load the checkpoint .*text\.pth \(_pickle\.UnpicklingError: ',
        ),
        (['teacher.pth', 'out.pth'], r"got one of \['teacher'\]: pick them out"),
        (['mae.pth', 'mae.pth'], 'OUT is IN, .* not overwritten'),
    ):
        with pytest.raises(SystemExit, match=r'^2$'):
            main(['convert', '--trust', *(str(tmp_path / name) for name in arguments)])
        error = capsys.readouterr().err.split('error: ', 1)[1]
        assert re.search(message, error)
        assert error.count('\n') == 1
    assert not (tmp_path / 'out.pth').exists()
