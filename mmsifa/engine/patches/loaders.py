"""Patches of MMEngine's data loaders."""

import functools

from mmengine.runner import FlexibleRunner, Runner

OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


@functools.cache
def patch_loaders_without_workers():
    """``num_workers=0`` fails beside ``persistent_workers=True`` (mmengine/runner/runner.py:1474).

    Such options are for worker processes, so PyTorch refuses them where there are none.
    """
    for runner in (Runner, FlexibleRunner):
        runner.build_dataloader = staticmethod(_without_worker_options(runner.build_dataloader))


def _without_worker_options(build_dataloader):
    @functools.wraps(build_dataloader)
    def build(dataloader, *args, **kwargs):
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {key: dataloader[key] for key in dataloader if key not in OF_WORKERS}
        return build_dataloader(dataloader, *args, **kwargs)

    return build
