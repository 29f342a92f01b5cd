_base_ = 'kinetics400.py'

# No flip: it would change classes such as "pushing something from left to right"
train_pipeline = [
    *_base_.train_pipeline[:5],
    dict(type='ClipRandAugment', num_ops=2, magnitude=27),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'frame_dir'))
]

train_dataloader = dict(
    dataset=dict(
        ann_file='data/sthv2/sthv2_train_list_videos.txt',
        data_prefix=dict(video='data/sthv2/videos'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        ann_file='data/sthv2/sthv2_val_list_videos.txt',
        data_prefix=dict(video='data/sthv2/videos')))
test_dataloader = val_dataloader
