_base_ = '_base_/sifa_net.py'

model = dict(backbone=dict(stage_with_sifa=(False, False, True)))
