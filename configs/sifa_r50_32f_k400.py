_base_ = 'sifa_r50_k400.py'

for split in ('train', 'val', 'test'):
    pipeline = _base_[f'{split}_pipeline']
    pipeline[1].clip_len = 32
    _base_[f'{split}_dataloader'].dataset.pipeline = pipeline
del split, pipeline

# The clips and the gradient of an update are those of 24 clips in 4 accumulated batches
train_dataloader = dict(batch_size=12)
val_dataloader = dict(batch_size=12)
optim_wrapper = dict(accumulative_counts=8)
auto_scale_lr = dict(base_batch_size=48)
