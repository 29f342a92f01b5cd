_base_ = 'sthv1.py'

# Videos, in MMAction2's layout
dataset_type = 'VideoDataset'
data_root = data_root_val = 'data/sthv2/videos'
ann_file_train = 'data/sthv2/sthv2_train_list_videos.txt'
ann_file_val = 'data/sthv2/sthv2_val_list_videos.txt'

decode = [dict(type='DecordInit'), dict(type='DecordDecode')]
train_pipeline = [decode[0], _base_.train_pipeline[0], decode[1], *_base_.train_pipeline[2:]]
val_pipeline = [decode[0], _base_.val_pipeline[0], decode[1], *_base_.val_pipeline[2:]]
test_pipeline = [decode[0], _base_.test_pipeline[0], decode[1], *_base_.test_pipeline[2:]]
del decode

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_train,
        data_prefix=dict(video=data_root),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_val,
        data_prefix=dict(video=data_root_val),
        pipeline=val_pipeline,
        test_mode=True))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        ann_file=ann_file_val,
        data_prefix=dict(video=data_root_val),
        pipeline=test_pipeline,
        test_mode=True))
