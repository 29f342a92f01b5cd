# What leaf configs put in the place of Swin-B; the official ImageNet-1K weights
swin_small = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_small_patch4_window7_224.pth'),
    cls_head=dict(in_channels=768))
