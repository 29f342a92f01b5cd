"""Weights that are all of a model's, or an error that counts and names those that do not fit."""

import pytest
import torch

from mmsifa.checkpoints.fit import check_fit, load_fitting_weights, state_dict_in, without_place
from mmsifa.checkpoints.load import CheckpointError


def recognizer():
    backbone = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
    return torch.nn.ModuleDict(dict(backbone=backbone, cls_head=torch.nn.Linear(4, 3)))


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a recognizer, and its weights."""
    weights = recognizer().state_dict()
    torch.save({'state_dict': weights}, tmp_path / 'trained.pth')
    return tmp_path / 'trained.pth', weights


def test_features_need_no_classifier(trained):
    path, expected = trained
    model = recognizer()
    del model['cls_head']
    load_fitting_weights(model, str(path))
    assert torch.equal(model.state_dict()['backbone.0.weight'], expected['backbone.0.weight'])


def test_missing_weights_are_counted_and_named(trained, tmp_path):
    weights = trained[1]
    torch.save({'state_dict': {'cls_head.bias': weights['cls_head.bias']}}, tmp_path / 'part.pth')
    reason = r'part.pth: .* of 9 weights 7 missing \(backbone\.0\.weight, .*, \.\.\.\); give the'
    with pytest.raises(CheckpointError, match=reason):  # the counter of batches may be missing
        load_fitting_weights(recognizer(), str(tmp_path / 'part.pth'))


def test_weights_that_need_not_fit_are_returned_in_words():
    weights = recognizer().state_dict()
    weights['cls_head.bias'] = torch.zeros(5)
    del weights['cls_head.weight']
    assert check_fit(recognizer(), {'state_dict': weights}, None, retrained='cls_head.') == [
        'cls_head.weight (missing)',
        'cls_head.bias is (5,), expected (3,) (of another shape)',
    ]


def test_whole_numbers_are_not_taken_for_floats():
    weights = recognizer().state_dict()
    weights['cls_head.bias'] = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r'1 of another type \(.* is torch\.int64, expected'):
        check_fit(recognizer(), weights, None)


def test_weights_are_found_where_they_may_be():
    weights = {'a': torch.zeros(1)}
    for checkpoint in (weights, {'model': weights}, {'state_dict': weights, 'model': 0}):
        assert state_dict_in(checkpoint) is weights
    with pytest.raises(ValueError, match='a dict of weights as its model, got int'):
        state_dict_in({'model': 0})


def test_only_weights_of_a_classifier_or_of_what_is_left_out_need_no_place():
    names = ['fc.bias', 'head.layers.head.weight', 'projection.fc.bias', 'layer4.0.conv', 'neck']
    assert without_place(names, left_out=('layer4.',)) == ['projection.fc.bias', 'neck']
