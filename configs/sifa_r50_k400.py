_base_ = [
    '_base_/models/sifa_r50.py', '_base_/datasets/kinetics400.py', '_base_/schedules/sgd_64e.py',
    '_base_/default_runtime.py'
]
