"""Patches of MMEngine 0.10 and MMAction2 1.2, made when mmsifa is imported.

Each ``patch_*`` function closes one gap and names where upstream has it. Some try first whether the
installed release still has it; the others change nothing where it has not. None does anything when
called again.
"""

from mmsifa.engine.patches import (
    data,
    files,
    imports,
    metrics,
    mixed_precision,
    processes,
    resuming,
)


def apply():
    """Close every gap; those of imports first, since the others may import MMAction2's models."""
    imports.patch_mmcv_limit()
    imports.patch_missing_drn()
    imports.patch_multimodal_import()
    files.patch_checkpoint_loading()
    files.patch_config_in_checkpoint()
    files.patch_local_writes()
    mixed_precision.patch_cpu_amp()
    mixed_precision.patch_bfloat16_scores()
    processes.patch_cpu_processes()
    files.patch_config_bases()
    data.patch_loaders_without_workers()
    data.patch_hue_overflow()
    data.patch_segments()
    processes.patch_cpu_fsdp()
    processes.patch_fsdp_resume()
    processes.patch_flexible_position()
    resuming.patch_resuming()
    data.patch_video_reading()
    data.patch_video_drawing()
    metrics.patch_multi_class_scores()
    metrics.patch_measures_of_nothing()
