# SIFA blocks in MMAction2's TSN
_base_ = 'mmaction::recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb.py'
custom_imports = dict(imports=['mmsifa'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='SIFAPlugin',
        backbone=_base_.model.backbone,
        after=['layer2.1', 'layer3.*'],
        num_segments=8))

# Errors name the videos
val_pipeline, test_pipeline = _base_.val_pipeline, _base_.test_pipeline
val_pipeline[-1].meta_keys = test_pipeline[-1].meta_keys = ('filename', )
test_pipeline[1].num_clips = 8
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
