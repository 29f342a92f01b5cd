_base_ = [
    '_base_/models/sifa_r50.py', '_base_/datasets/motion.py', '_base_/schedules/sgd_5e.py',
    '_base_/default_runtime.py'
]

# 8 bottlenecks, wide enough for a few classes of 64 x 64 pixels
model = dict(
    backbone=dict(pretrained=None, stage_blocks=(2, 2, 2, 1), base_channels=16),
    cls_head=dict(
        in_channels=512, num_classes=8, dropout_ratio=0, loss_cls=dict(loss_weight=1.0)))
