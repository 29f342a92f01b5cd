_base_ = ['sifa_r50_k600.py', '_base_/models/resnet101.py']

model = dict(backbone=_base_.resnet101)
