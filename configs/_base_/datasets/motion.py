_base_ = 'kinetics400.py'

# Written by tools/make_motion_dataset.py
data_root = 'data/motion/videos_train'
data_root_val = 'data/motion/videos_val'
ann_file_train = 'data/motion/train_list_videos.txt'
ann_file_val = 'data/motion/val_list_videos.txt'

# Flips change the class: 0 left, 1 right, 2 up, 3 down, 6 clockwise, 7 counterclockwise
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
    dict(type='DecordDecode'),
    dict(type='Flip', direction='horizontal', flip_label_map={0: 1, 1: 0, 6: 7, 7: 6}),
    dict(type='Flip', direction='vertical', flip_label_map={2: 3, 3: 2, 6: 7, 7: 6}),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')
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

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        ann_file=ann_file_train, data_prefix=dict(video=data_root), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        ann_file=ann_file_val, data_prefix=dict(video=data_root_val), pipeline=val_pipeline))
test_dataloader = dict(
    num_workers=2,
    dataset=dict(
        ann_file=ann_file_val, data_prefix=dict(video=data_root_val), pipeline=test_pipeline))
