_base_ = [
    '_base_/models/sifa_r50.py', '_base_/datasets/sthv2.py', '_base_/schedules/sgd_64e.py',
    '_base_/default_runtime.py'
]

model = dict(cls_head=dict(num_classes=174, loss_cls=dict(loss_weight=1.0)))

optim_wrapper = dict(optimizer=dict(lr=0.02))

warmup_epochs = 5
warmup, cosine = _base_.param_scheduler
warmup.end = cosine.begin = warmup_epochs
cosine.T_max = _base_.max_epochs - warmup_epochs
del warmup, cosine
