_base_ = 'sgd_64e.py'

max_epochs = 5

train_cfg = dict(max_epochs=max_epochs, val_interval=2)

optim_wrapper = dict(optimizer=dict(lr=0.05), accumulative_counts=1, clip_grad=dict(max_norm=5))

cosine = _base_.param_scheduler[1]
cosine.end = max_epochs
cosine.T_max = max_epochs - _base_.warmup_epochs
del cosine

auto_scale_lr = dict(base_batch_size=16)
