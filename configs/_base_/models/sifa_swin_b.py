model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='SIFATransformer',
        arch='base',
        drop_path_rate=0.5,
        # The official ImageNet-1K weights
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_base_patch4_window7_224.pth'),
    cls_head=dict(
        type='I3DHead',
        num_classes=400,
        in_channels=1024,
        dropout_ratio=0.5,
        average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
