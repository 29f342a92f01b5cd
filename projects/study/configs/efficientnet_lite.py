_base_ = 'recognizer3d.py'

trunk = None  # it has weights of ImageNet
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(conv_offset=dict(lr_mult=0.1))))
iterations = 132  # two passes over the training clips of ucf10
batch_size = 8

# What is other in clips of real videos, by the steps' types
num_frames = 8
size = (128, 96)
steps = dict(
    KeepFrames=dict(num_frames=3 * num_frames, height=112, short_side=112),
    UniformSample=dict(clip_len=num_frames),
    ClipTRNHead=dict(num_segments=num_frames),
    Resize=dict(scale=size))

# A part between frames in the residual branch of four blocks. What replaces channels there, as TSM
# does, leaves the features of ImageNet nearly as they were.
model = dict(
    backbone=dict(
        type='SIFAPlugin',
        backbone=dict(type='EfficientNetLite0'),
        after=[f'blocks.{number}._bn2' for number in (4, 6, 7, 10)]),
    cls_head=dict(in_channels=1280),
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3))
