_base_ = 'sifa_r50.py'

# 9 bottlenecks, wide enough for a few classes of 64 x 64 pixels
model = dict(
    backbone=dict(pretrained=None, stage_blocks=(1, 2, 2, 2), base_channels=16),
    cls_head=dict(in_channels=512, num_classes=8, loss_cls=dict(loss_weight=1.0)))
