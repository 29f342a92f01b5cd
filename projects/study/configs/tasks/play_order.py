_base_ = '../videos.py'

num_classes = 2  # forwards, backwards
interval = 2  # of the sampled frames

train_pipeline = val_pipeline = test_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=_base_.num_frames, frame_interval=interval),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 72)),
    dict(type='RandomCrop', size=64),
    dict(type='PlayOrder'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(
    dataset=dict(dataset=dict(dataset=dict(pipeline=val_pipeline))))
