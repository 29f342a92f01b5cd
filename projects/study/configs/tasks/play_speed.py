_base_ = 'play_order.py'

num_classes = 2
intervals = (1, 2)  # of the sampled frames, for each label

train_pipeline = val_pipeline = test_pipeline = _base_.train_pipeline
train_pipeline[1] = dict(type='PlaySpeed', clip_len=_base_.num_frames, intervals=intervals)
del train_pipeline[5]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(
    dataset=dict(dataset=dict(dataset=dict(pipeline=val_pipeline))))
