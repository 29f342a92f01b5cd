"""Patches of what MMAction2 scores and measures."""

import math

import mmengine
import pytest
import torch
from mmaction.models.heads import TSNHead
from mmaction.structures import ActionDataSample
from mmengine.evaluator import Evaluator


def samples():
    return [ActionDataSample().set_gt_label(label) for label in (0, 2)]


@pytest.mark.parametrize('average_clips', ['prob', 'score', None])
def test_heads_of_several_classes_score_each_by_itself(average_clips):
    head = TSNHead(3, 4, multi_class=True, average_clips=average_clips)
    clips = torch.randn(2, 4, 3)  # 4 clips of 2 videos
    found = [s.pred_score for s in head.predict_by_feat(clips.flatten(0, 1), samples())]
    expected = {'prob': clips.sigmoid().mean(1), 'score': clips.mean(1), None: clips}
    torch.testing.assert_close(torch.stack(found), expected[average_clips])


def test_heads_of_one_class_score_by_a_softmax():
    clips = torch.randn(2, 4, 3)
    head = TSNHead(3, 4, average_clips='prob')
    found = [s.pred_score for s in head.predict_by_feat(clips.flatten(0, 1), samples())]
    torch.testing.assert_close(torch.stack(found), clips.softmax(2).mean(1))


@pytest.mark.parametrize('score', [math.nan, math.inf, -math.inf])
def test_no_metric_takes_scores_that_are_no_numbers(score):
    evaluator = Evaluator([dict(type='mmaction.AccMetric'), dict(type='mmaction.ConfusionMatrix')])
    good, bad = (dict(gt_label=torch.tensor([0]), pred_score=torch.ones(3)) for _ in range(2))
    bad.update(filename='videos/b.mp4', pred_score=torch.tensor([0.1, score, 0.2]))
    with pytest.raises(
        FloatingPointError, match=r'scores of samples videos/b\.mp4 are NaN or infinite'
    ):
        evaluator.process([dict(good, filename='videos/a.mp4'), bad])
    with pytest.raises(FloatingPointError, match=r"samples unknown \(name 'filename' in the meta_"):
        evaluator.process([dict(bad, filename=None)])
    bad['pred_score'] = dict(rgb=torch.ones(3), pose=bad['pred_score'])  # as of RGBPoseHead
    with pytest.raises(
        FloatingPointError, match=r'scores of samples videos/b\.mp4 are NaN or infinite'
    ):
        evaluator.process([bad])


def test_no_metric_takes_the_label_of_a_list_without_labels(tmp_path):
    samples = [dict(gt_label=torch.tensor([-1]), pred_score=torch.ones(3), filename='a.mp4')]
    dump = dict(type='DumpResults', out_file_path=str(tmp_path / 'dump.pkl'))
    with pytest.raises(
        ValueError, match=r'AccMetric needs labels from 0 on, got -1.* for samples a\.mp4'
    ):
        Evaluator([dict(type='mmaction.AccMetric'), dump]).offline_evaluate(samples)
    Evaluator(dump).offline_evaluate(samples)
    assert mmengine.load(tmp_path / 'dump.pkl')[0]['filename'] == 'a.mp4'


def test_features_in_the_place_of_scores_are_dumped_as_before(tmp_path):
    dump = dict(type='DumpResults', out_file_path=str(tmp_path / 'dump.pkl'))
    Evaluator(dump).offline_evaluate([torch.tensor([1.0, math.nan])])
    assert len(mmengine.load(tmp_path / 'dump.pkl')) == 1
