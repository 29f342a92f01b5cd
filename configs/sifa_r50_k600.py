_base_ = [
    '_base_/models/sifa_r50.py', '_base_/datasets/kinetics600.py', '_base_/schedules/sgd_64e.py',
    '_base_/default_runtime.py'
]

model = dict(cls_head=dict(num_classes=600))
