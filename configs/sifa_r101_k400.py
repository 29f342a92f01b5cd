_base_ = ['sifa_r50_k400.py', '_base_/models/other_sizes.py']

model = dict(backbone=_base_.resnet101)
