# What leaf configs put in the place of ResNet-50 and of Swin-B

# torchvision's weights, IMAGENET1K_V1
resnet101 = dict(
    depth=101, pretrained='https://download.pytorch.org/models/resnet101-63fe2227.pth')
# The official ImageNet-1K weights
swin_small = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_small_patch4_window7_224.pth'),
    cls_head=dict(in_channels=768))
# The official ImageNet-22K weights
swin_large = dict(
    backbone=dict(
        arch='large',
        pretrained='https://download.openmmlab.com/mmaction/v1.0/recognition/swin/'
        'swin_large_patch4_window7_224_22k.pth'),
    cls_head=dict(in_channels=1536))
