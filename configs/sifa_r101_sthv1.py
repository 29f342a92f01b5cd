_base_ = ['sifa_r50_sthv1.py', '_base_/models/resnet101.py']

model = dict(backbone=_base_.resnet101)
