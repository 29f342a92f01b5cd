# 5 bottlenecks on frames of 64 x 64 pixels, two of which have a part between frames
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='SIFANet',
        tubelet_size=1,
        num_stages=3,
        stage_blocks=(1, 2, 2),
        strides=(1, 2, 2),
        base_channels=16,
        out_indices=(2, ),
        dual_path=False),
    cls_head=dict(
        type='I3DHead', in_channels=256, num_classes=8, dropout_ratio=0, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
