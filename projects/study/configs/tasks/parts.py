_base_ = '../drawn_clips.py'

clips = dict(task='parts')
train_dataloader = dict(dataset=clips)
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
