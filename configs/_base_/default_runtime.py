_base_ = 'mmaction::_base_/default_runtime.py'

custom_imports = dict(imports=['mmsifa'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3),
    loaded=dict(type='CheckLoadedCheckpointHook'),
    invalid_loss=dict(type='InvalidLossHook'),
    preemption=dict(type='PreemptionHook'),
    labels=dict(type='CheckLabelsHook'),
    bad_videos=dict(type='BadVideosHook'))
