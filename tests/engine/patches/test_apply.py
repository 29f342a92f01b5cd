"""Each patch is still needed, and applying all of them twice changes nothing."""

import sys

import pytest
from mmaction.datasets.transforms.processing import ColorJitter
from mmaction.models.heads import BaseHead
from mmaction.registry import OPTIM_WRAPPERS
from mmengine.config import Config
from mmengine.dist import utils as dist_utils
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mmsifa.engine import patches


@pytest.mark.parametrize(
    ('gap', 'error'),
    [
        ('models', "No module named 'mmaction.models.localizers.drn'"),
        ('load', 'HistoryBuffer was not an allowed global'),
        ('amp', 'only available training on gpu'),
        ('init_dist', 'Error'),  # its text depends on how torch was built
        ('wrap_model', 'device_ids and output_device arguments only work'),
        ('fsdp', 'Error'),  # as that of init_dist
        ('config_base', 'get external package'),
        ('head', 'BFloat16'),
        ('multimodal', 'Error'),  # of timm or of transformers, whichever is missing or too new
        pytest.param('hue', 'out of bounds for uint8'),
        ('write', 'the old content is lost'),
    ],
)
def test_upstream_still_has_the_gap(unpatched, gap, error):
    errors = Config.fromfile(unpatched / 'errors.json')
    assert error in errors.get(gap, 'it works: this patch may go')


def test_applying_twice_changes_nothing():
    def state():
        return (
            list(sys.meta_path), CheckpointLoader.__dict__['load_checkpoint'],
            OPTIM_WRAPPERS.get('AmpOptimWrapper'), dist_utils._init_dist_pytorch,
            MMDistributedDataParallel.__init__, Config._get_cfg_path, BaseHead.loss_by_feat,
            BaseHead.average_clip, Evaluator.process, Runner.build_dataloader,
            ColorJitter.adjust_hue,
        )  # fmt: skip

    before = state()
    patches.apply()
    assert state() == before
