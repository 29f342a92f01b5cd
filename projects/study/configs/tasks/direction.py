_base_ = '../drawn_clips.py'

clips = dict(task='direction')
# What does not move has no direction, so nothing is learnt from it; it is tested as a control
train_dataloader = dict(dataset=dict(**clips, displacements=_base_.displacements[1:]))
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
