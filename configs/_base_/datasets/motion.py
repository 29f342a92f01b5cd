_base_ = 'kinetics400.py'

# Flips change the class: 0 left, 1 right, 2 up, 3 down, 6 clockwise, 7 counterclockwise
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
    dict(type='DecordDecode'),
    dict(type='Flip', direction='horizontal', flip_label_map={0: 1, 1: 0, 6: 7, 7: 6}),
    dict(type='Flip', direction='vertical', flip_label_map={2: 3, 3: 2, 6: 7, 7: 6}),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'frame_dir'))
]
val_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='DecordDecode'),
    *train_pipeline[-2:]
]
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=2, test_mode=True),
    dict(type='DecordDecode'),
    *train_pipeline[-2:]
]

# Written by mmsifa make-motion-dataset
val_dataset = dict(
    ann_file='data/motion/val_list_videos.txt', data_prefix=dict(video='data/motion/videos_val'))

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        ann_file='data/motion/train_list_videos.txt',
        data_prefix=dict(video='data/motion/videos_train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16, num_workers=2, dataset=dict(val_dataset, pipeline=val_pipeline))
test_dataloader = dict(num_workers=2, dataset=dict(val_dataset, pipeline=test_pipeline))
del val_dataset
