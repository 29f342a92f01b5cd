_base_ = [
    '_base_/models/sifa_r50.py', '_base_/datasets/sthv2.py', '_base_/schedules/sgd_64e_sth.py',
    '_base_/default_runtime.py'
]

# Accumulated batches are averaged
model = dict(cls_head=dict(num_classes=174, loss_cls=dict(loss_weight=1.0)))
