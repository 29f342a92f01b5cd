_base_ = 'sthv2.py'

# 64 frames spread over the whole video, which often has fewer; MMAction2's Swin augmentation
# without its flip, which would change classes
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='UniformSample', clip_len=64),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'frame_dir'))
]
val_pipeline = [
    dict(type='DecordInit'),
    dict(type='UniformSample', clip_len=64, test_mode=True),
    *_base_.val_pipeline[2:]
]
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='UniformSample', clip_len=64, test_mode=True),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='ThreeCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'frame_dir'))
]

train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
