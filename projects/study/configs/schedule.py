_base_ = 'mmsifa::_base_/default_runtime.py'

custom_imports = dict(imports=['mmsifa', 'study'], allow_failed_imports=False)

# What a study may change for all of its runs
iterations = 500
batch_size = 32
num_frames = 4
learning_rate = 2e-3
weight_decay = 0.05
warmup = 0.1  # of the training
test_clips = 960
quick_test_clips = 480  # of --quick

# One epoch, whose data set has iterations * batch_size clips
train_cfg = dict(type='ResumableTrainLoop', max_epochs=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=learning_rate, weight_decay=weight_decay),
    clip_grad=dict(max_norm=5))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.04,
        by_epoch=True,
        begin=0,
        end=warmup,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=1 - warmup,
        eta_min=0,
        by_epoch=True,
        begin=warmup,
        end=1,
        convert_to_iter_based=True)
]

default_hooks = dict(
    checkpoint=dict(save_best=None, save_optimizer=False, save_param_scheduler=False))
