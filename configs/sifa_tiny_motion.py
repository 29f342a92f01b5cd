_base_ = [
    '_base_/models/sifa_tiny.py', '_base_/datasets/motion.py', '_base_/schedules/sgd_5e.py',
    '_base_/default_runtime.py'
]
