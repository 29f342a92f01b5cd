_base_ = 'sgd_64e.py'

# The released settings for Something-Something
warmup_epochs = 5

optim_wrapper = dict(optimizer=dict(lr=0.02))

warmup, cosine = _base_.param_scheduler
warmup.end = cosine.begin = warmup_epochs
cosine.T_max = _base_.max_epochs - warmup_epochs
del warmup, cosine
