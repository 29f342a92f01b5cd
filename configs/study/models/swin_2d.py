_base_ = '_base_/swin.py'

model = dict(backbone=dict(temporal_parts=(None, None)))
