_base_ = 'schedule.py'

num_classes = 8
displacements = (0, 1, 2, 4, 8, 16)  # pixels per frame
# What test clips have that training clips have not, one at a time
disturbances = dict(
    camera=dict(camera=True), nonrigid=dict(nonrigid=True), light=dict(appearance_change=True))

train_pipeline = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('displacement', 'sample_idx'))
]
val_pipeline = test_pipeline = train_pipeline

clips = dict(
    type='SyntheticClips',
    num_frames=_base_.num_frames,
    size=64,
    displacements=displacements,
    pipeline=train_pipeline)
loader = dict(batch_size=_base_.batch_size, num_workers=0)

train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**clips, num_clips=_base_.iterations * _base_.batch_size))
val_dataloader = test_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**clips, num_clips=_base_.test_clips, stream=1, test_mode=True))
del clips, loader

val_evaluator = test_evaluator = dict(type='AccuracyBy', key='displacement')
