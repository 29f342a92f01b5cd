_base_ = 'kinetics400.py'

# MMAction2's layout: data/sthv1/rawframes/VIDEO/00001.jpg
dataset_type = 'RawframeDataset'
data_root = data_root_val = 'data/sthv1/rawframes'
ann_file_train = 'data/sthv1/sthv1_train_list_rawframes.txt'
ann_file_val = 'data/sthv1/sthv1_val_list_rawframes.txt'
filename_tmpl = '{:05}.jpg'

# No flip: it would change classes such as "pushing something from left to right"
train_pipeline = [
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
    dict(type='RawFrameDecode'),
    dict(type='RandomResizedCrop', area_range=(0.2, 1.0)),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='ClipRandAugment', num_ops=2, magnitude=27),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')
]
val_pipeline = [_base_.val_pipeline[1], dict(type='RawFrameDecode'), *_base_.val_pipeline[3:]]
test_pipeline = [_base_.test_pipeline[1], dict(type='RawFrameDecode'), *_base_.test_pipeline[3:]]

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_train,
        data_prefix=dict(img=data_root),
        filename_tmpl=filename_tmpl,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_val,
        data_prefix=dict(img=data_root_val),
        filename_tmpl=filename_tmpl,
        pipeline=val_pipeline,
        test_mode=True))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_val,
        data_prefix=dict(img=data_root_val),
        filename_tmpl=filename_tmpl,
        pipeline=test_pipeline,
        test_mode=True))
