_base_ = 'sifa_swin_b_k400.py'

# The official ImageNet-22K weights
model = dict(
    backbone=dict(
        arch='large',
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_large_patch4_window7_224_22k.pth'),
    cls_head=dict(in_channels=1536))
