_base_ = [
    '_base_/models/sifa_swin_b.py', '_base_/datasets/kinetics400_64x2.py',
    '_base_/schedules/adamw_30e.py', '_base_/default_runtime.py'
]
