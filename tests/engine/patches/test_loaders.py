"""Patches of MMEngine's data loaders."""

import pytest
from mmengine.config import ConfigDict
from mmengine.runner import FlexibleRunner, Runner


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
def test_a_loader_without_workers_leaves_out_what_is_for_these(runner):
    config = ConfigDict(
        dataset=list(range(5)), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
        persistent_workers=True, prefetch_factor=3, timeout=9, multiprocessing_context='spawn',
    )  # fmt: skip
    assert list(runner.build_dataloader(dict(config, num_workers=0))) == [[0, 1], [2, 3], [4]]
    loader = runner.build_dataloader(dict(config, num_workers=1))
    assert (loader.persistent_workers, loader.prefetch_factor, loader.timeout) == (True, 3, 9)
