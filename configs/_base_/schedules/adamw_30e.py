# MMAction2's Swin recipe; the paper's is not published
max_epochs = 30

train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1e9),  # clips nothing: logs the gradients' norm
    constructor='SwinOptimWrapperConstructor',
    # By parts of parameters' names, multiplied: a tenth of the rate for the pretrained trunk and
    # for offset predictors, whose samples leave the frame at the full rate (projects/study/README.md)
    paramwise_cfg={
        'backbone': dict(lr_mult=0.1),
        'temporal': dict(lr_mult=10.0),
        'conv_offset': dict(lr_mult=0.1),
        'norm': dict(decay_mult=0.0),
        '.bias': dict(decay_mult=0.0),
        'relative_position_bias_table': dict(decay_mult=0.0)
    })

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=2.5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=0,
        by_epoch=True,
        begin=0,
        end=max_epochs)
]

# 8 GPUs x 8 clips
auto_scale_lr = dict(enable=False, base_batch_size=64)
