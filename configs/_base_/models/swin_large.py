# What leaf configs put in the place of Swin-B; the official ImageNet-22K weights
swin_large = dict(
    backbone=dict(
        arch='large',
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_large_patch4_window7_224_22k.pth'),
    cls_head=dict(in_channels=1536))
