_base_ = '_base_/synthetic.py'

noise = 150
visible = 0.5

clips = dict(task='appearance', noise=noise, visible=visible)
train_dataloader = dict(dataset=clips)
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
