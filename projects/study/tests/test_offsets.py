"""Where networks look, against the known motion, and the accuracy by displacement."""

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS, METRICS, MODELS
from mmengine.model import BaseModel

from mmsifa.apis.inspection import LayerAttention
from mmsifa.models import SIFA
from study import (
    Run,
    Study,
    draw_cases,
    find_cases,
    fit_motion,
    measure_offsets,
    offset_errors,
    sample_scene,
    true_places,
    watch,
)
from study.plan import CONFIGS


def sample(right, **meta):
    scores = torch.tensor([0.1, 0.2, 0.7])
    return dict(pred_score=scores, gt_label=torch.tensor([2 if right else 0]), **meta)


def test_accuracy_is_told_by_a_meta_key():
    metric = METRICS.build(dict(type='AccuracyBy', key='displacement'))
    metric.process({}, [sample(True, displacement=4.0), sample(False, displacement=4.0)])
    metric.process({}, [sample(True, displacement=0.5), sample(True, displacement=16.0)])
    assert metric.evaluate(size=4) == {
        'acc/top1': 0.75,
        'acc/displacement=0.5': 1.0,
        'acc/displacement=4': 0.5,
        'acc/displacement=16': 1.0,
    }
    with pytest.raises(ValueError, match="expects samples with 'displacement', got the keys"):
        metric.process({}, [sample(True)])


@pytest.fixture
def scene():
    """Sprites that move by 8 pixels to the right: 2 cells of a map of 16 x 16."""
    return sample_scene(np.random.default_rng(3), 'direction', label=0, displacement=8)


def layer(offset_x=0.0, weights=1.0, length=8):
    offset = np.zeros((length - 1, 9, 2, 16, 16), np.float32)
    offset[:, :, 1] = offset_x
    weights = np.broadcast_to(
        np.asarray(weights, np.float32).reshape(1, 1, -1, 1, 1), (length - 1, 1, 9, 16, 16)
    )
    return LayerAttention('sifa', 3, 1, range(length), offset, weights, offset[:, 0, 0])


def test_offsets_that_are_the_motion_have_no_error(scene):
    errors = offset_errors(layer(offset_x=2), scene)
    assert len(errors['attended']) > 50
    np.testing.assert_allclose(errors['attended'], 0, atol=1e-5)
    np.testing.assert_allclose(errors['nearest'], 0, atol=1e-5)
    np.testing.assert_allclose(errors['no_motion'], 8, atol=1e-5)
    np.testing.assert_allclose(errors['nearest_undeformed'], 4, atol=1e-5)  # a cell further


def test_without_offsets_the_error_is_the_motion(scene):
    errors = offset_errors(layer(), scene)
    np.testing.assert_allclose(errors['attended'], 8, atol=1e-5)
    np.testing.assert_array_equal(errors['nearest'], errors['nearest_undeformed'])


def test_samples_outside_of_the_frame_are_counted(scene):
    np.testing.assert_array_equal(offset_errors(layer(offset_x=20), scene)['outside'], 1)


def test_the_attended_place_is_weighted_by_the_size_of_the_weights(scene):
    weights = np.zeros(9)
    weights[4], weights[5] = 1, -3  # the centre, and its neighbour at the right
    errors = offset_errors(layer(weights=weights), scene)
    np.testing.assert_allclose(errors['attended'], 8 - 0.75 * 4, atol=1e-5)


class TellsTheMotion(BaseModel):
    """Its only layer predicts offsets from a map that is the true motion, of x and y first."""

    def __init__(self, clips):
        super().__init__()
        self.clips = clips
        self.sifa = SIFA(channels=2, motion_rescaling=False)

    def forward(self, inputs, data_samples, mode):
        pass

    def test_step(self, data):
        scenes = [self.clips.scene(sample.sample_idx) for sample in data['data_samples']]
        features = np.zeros((len(scenes), 4, 2, 16, 16), np.float32)
        for feature, scene in zip(features, scenes, strict=True):
            true, _ = true_places(scene, 16, 16)
            feature[1:] = (true - np.indices((16, 16)))[:, ::-1]
        return self.sifa(torch.from_numpy(features))


def test_the_best_linear_prediction_is_the_motion_where_that_can_be_read(tmp_path):
    config = Study(tmp_path, CONFIGS).config(Run('direction', 'sifa', 0))
    clips = DATASETS.build(dict(config.val_dataloader.dataset, num_clips=50))
    model = TellsTheMotion(clips)
    fits = fit_motion(model, clips, batch_size=20)
    expected = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    expected[0, 1, 1, 1] = expected[1, 0, 1, 1] = 1
    torch.testing.assert_close(fits, {'sifa': expected}, atol=1e-4, rtol=0)
    for record in measure_offsets(watch(model, clips, fits, num_clips=6)):
        assert record['best_linear'] < 1e-3


def test_cells_that_leave_the_frame_do_not_count(scene):
    counted = len(offset_errors(layer(), scene)['attended'])
    moving = [scene.flow(t)[1].reshape(16, 4, 16, 4).mean(axis=(1, 3)) > 0.5 for t in range(7)]
    assert counted == sum(cells[:, :14].sum() for cells in moving)
    assert counted < sum(cells.sum() for cells in moving)


def test_cases_are_positions_of_clips_that_move_from_the_best_to_the_worst(tmp_path):
    config = Study(tmp_path, CONFIGS).config(Run('direction', 'undeformed', 0))
    clips = DATASETS.build(config.val_dataloader.dataset)
    cases = find_cases(watch(MODELS.build(config.model), clips, num_clips=12))
    assert 1 < len(cases) <= 6
    assert {case.displacement for case in cases} <= {4, 8, 16}
    errors = [case.error() for case in cases]
    assert errors == sorted(errors)
    for case in cases:
        assert case.places.counted[case.position]
        all_errors = case.places.error()[case.places.counted]
        assert (all_errors < case.error()).sum() == len(all_errors) // 2
    with pytest.raises(ValueError, match='two cases or more to draw, got 1'):
        draw_cases(cases[:1])


def test_tubelets_are_refused(scene):
    with pytest.raises(ValueError, match='a feature frame for each of 8 frames, got 2 in sifa'):
        offset_errors(layer(length=2), scene)
