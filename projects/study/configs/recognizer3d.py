model = dict(
    type='Recognizer3D',
    cls_head=dict(type='I3DHead', num_classes=8, dropout_ratio=0, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
