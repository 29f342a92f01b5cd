_base_ = 'sifa_r50_k400.py'

for split in ('train', 'val', 'test'):
    pipeline = _base_[f'{split}_pipeline']
    pipeline[1].clip_len = 32
    _base_[f'{split}_dataloader'].dataset.pipeline = pipeline
del split, pipeline

# Half the clips in the same memory
train_dataloader = dict(batch_size=12)
val_dataloader = dict(batch_size=12)
auto_scale_lr = dict(base_batch_size=48)
