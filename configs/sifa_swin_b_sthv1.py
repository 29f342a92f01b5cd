_base_ = ['sifa_swin_b_sthv2.py', '_base_/datasets/sthv1.py']

for split, dataset in _base_.sthv1.items():
    pipeline = _base_[f'{split}_pipeline']
    pipeline[:3] = [pipeline[1], dict(type='RawFrameDecode')]
    _base_[f'{split}_dataloader'].dataset = dict(dataset, pipeline=pipeline)
del split, dataset, pipeline
