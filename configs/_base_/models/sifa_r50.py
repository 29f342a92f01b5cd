model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='SIFANet',
        depth=50,
        # torchvision's ResNet-50, IMAGENET1K_V1; needs no torchvision
        pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth'),
    cls_head=dict(
        type='SIFAHead',
        num_classes=400,
        in_channels=2048,
        dropout_ratio=0.5,
        # Four accumulated batches of 24 clips add up; the optimizer wrapper alone averages them
        loss_cls=dict(type='CrossEntropyLoss', loss_weight=4.0),
        average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
