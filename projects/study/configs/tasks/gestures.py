_base_ = '../schedule.py'

start = 'direction'  # the task whose weights each network starts from
num_classes = 10
iterations = 200
quick_iterations = 100  # of --quick
batch_size = 16
num_frames = 16  # spread over the video
size = (80, 64)  # width and height
head = dict(
    type='ClipTRNHead',
    num_segments=num_frames,
    hidden_dim=128,
    dropout_ratio=0.5,
    average_clips='prob')

# No flips: they change what a gesture means. Colours change, since test clips have other backgrounds
train_pipeline = [
    dict(type='KeepFrames', num_frames=3 * num_frames, height=80),
    dict(type='RandomTemporalCrop', least=0.8),
    dict(type='UniformSample', clip_len=num_frames),
    dict(type='DecordDecode'),
    dict(type='RandomResizedCrop', area_range=(0.7, 1.0), aspect_ratio_range=(1.1, 1.4)),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='ClipColorJitter', brightness=0.4, contrast=0.4, saturation=1.0, hue=0.1),
    dict(type='RandomApply', prob=0.2, transforms=[dict(type='ClipGrayscale')]),
    dict(type='SubtractBackground', share=0.8),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'label'))
]
val_pipeline = test_pipeline = [
    train_pipeline[0],
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    train_pipeline[3],
    train_pipeline[5],
    *train_pipeline[8:],
]
# What tells how much the order of the frames says, and what preparing the videos costs
disturbances = dict(
    shuffled=dict(
        pipeline=[*val_pipeline[:3], dict(type='ShuffleFrames'), *val_pipeline[3:]]),
    prepared=dict(pipeline=[dict(val_pipeline[0], short_side=80), *val_pipeline[1:]]))

# run.py writes the lists
videos = dict(type='VideoDataset', data_prefix=dict(video='data'), delimiter='\t')
loader = dict(batch_size=batch_size, num_workers=0)

train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(
            **videos, ann_file='data/train_list_videos.txt', pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **videos, ann_file='data/val_list_videos.txt', pipeline=val_pipeline, test_mode=True))
del videos, loader

val_evaluator = test_evaluator = dict(type='AccuracyBy', key='label')
