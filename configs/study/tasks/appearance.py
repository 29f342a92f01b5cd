_base_ = '_base_/synthetic.py'

noise = 100
visible = 0.8

clips = dict(task='appearance', noise=noise, visible=visible)
train_dataloader = dict(dataset=clips)
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
