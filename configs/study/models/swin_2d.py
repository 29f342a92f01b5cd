_base_ = '_base_/swin.py'

iterations = 6000  # it takes longer than a ResNet

model = dict(backbone=dict(temporal_parts=(None, None)))
