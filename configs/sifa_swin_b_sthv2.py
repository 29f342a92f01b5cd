_base_ = [
    '_base_/models/sifa_swin_b.py', '_base_/datasets/sthv2_64u.py',
    '_base_/schedules/adamw_30e.py', '_base_/default_runtime.py'
]

model = dict(cls_head=dict(num_classes=174))
