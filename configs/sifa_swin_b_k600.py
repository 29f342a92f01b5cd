_base_ = ['sifa_swin_b_k400.py', '_base_/datasets/kinetics600.py']

model = dict(cls_head=dict(num_classes=600))
train_dataloader = dict(dataset=_base_.kinetics600.train)
val_dataloader = dict(dataset=_base_.kinetics600.val)
test_dataloader = dict(dataset=_base_.kinetics600.val)
