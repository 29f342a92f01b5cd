_base_ = 'sifa_r50_k400.py'

for split in ('train', 'val', 'test'):
    pipeline = _base_[f'{split}_pipeline']
    pipeline[1].clip_len = 32
    _base_[f'{split}_dataloader'].dataset.pipeline = pipeline
del split, pipeline

# As many clips for an update as 24 in 4 accumulated batches, in half the memory
train_dataloader = dict(batch_size=12)
val_dataloader = dict(batch_size=12)
optim_wrapper = dict(accumulative_counts=8)
model = dict(cls_head=dict(loss_cls=dict(loss_weight=8.0)))
auto_scale_lr = dict(base_batch_size=48)
