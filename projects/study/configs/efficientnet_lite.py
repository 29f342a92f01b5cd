_base_ = 'recognizer3d.py'

trunk = None  # it has weights of ImageNet

# A part between frames in the residual branch of two blocks. What replaces channels there, as TSM
# does, leaves the features of ImageNet nearly as they were.
model = dict(
    backbone=dict(
        type='SIFAPlugin',
        backbone=dict(type='EfficientNetLite0', num_blocks=11),
        after=[f'blocks.{number}._bn2' for number in (4, 7)]),
    cls_head=dict(in_channels=112, dropout_ratio=0.5),
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3))

# Changes for a set of videos, which the study merges: base configs may not share a key
gestures = dict(
    iterations=132,
    quick_iterations=66,
    optim_wrapper=dict(
        optimizer=dict(lr=1e-3),
        paramwise_cfg=dict(custom_keys=dict(conv_offset=dict(lr_mult=0.1)))))
ucf10 = dict(
    iterations=132,
    quick_iterations=66,
    optim_wrapper=dict(
        optimizer=dict(lr=1e-3),
        paramwise_cfg=dict(
            custom_keys={
                'conv_offset': dict(lr_mult=0.1),
                'backbone.backbone': dict(lr_mult=0.1)  # what has weights of ImageNet
            })),
    model=dict(
        backbone=dict(
            backbone=dict(num_blocks=16, frozen_blocks=4, norm_eval=True),
            after=[f'blocks.{number}._bn2' for number in (4, 6, 7, 10)]),
        cls_head=dict(in_channels=1280)))
