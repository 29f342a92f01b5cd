_base_ = '_base_/synthetic.py'

clips = dict(task='parts')
train_dataloader = dict(dataset=clips)
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
