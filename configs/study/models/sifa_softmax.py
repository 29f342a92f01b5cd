_base_ = '_base_/sifa_net.py'

model = dict(backbone=dict(softmax=True))
