_base_ = 'sifa_r50_k400.py'

model = dict(
    backbone=dict(
        depth=101, pretrained='https://download.pytorch.org/models/resnet101-63fe2227.pth'))
