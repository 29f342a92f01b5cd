_base_ = '../../schedule.py'

num_classes = 8
displacements = (0, 1, 2, 4, 8, 16)  # pixels per frame

train_pipeline = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('displacement', 'sample_idx'))
]
val_pipeline = test_pipeline = train_pipeline

train_dataloader = dict(
    batch_size=_base_.batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='SyntheticClips',
        num_clips=_base_.iterations * _base_.batch_size,
        num_frames=8,
        size=64,
        displacements=displacements,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=_base_.batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SyntheticClips',
        num_clips=_base_.test_clips,
        num_frames=8,
        size=64,
        displacements=displacements,
        stream=1,
        pipeline=val_pipeline,
        test_mode=True))
test_dataloader = val_dataloader

val_evaluator = test_evaluator = dict(type='AccuracyBy', key='displacement')
