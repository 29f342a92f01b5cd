_base_ = ['sifa_swin_b_sthv1.py', '_base_/models/other_sizes.py']

model = _base_.swin_large
