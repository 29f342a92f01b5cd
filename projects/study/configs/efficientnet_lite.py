_base_ = 'recognizer3d.py'

trunk = None  # it has weights of ImageNet
real_clips = 'real_clips_lite'  # its config of real videos

# A part between frames in the residual branch of four blocks. What replaces channels there, as TSM
# does, leaves the features of ImageNet nearly as they were.
model = dict(
    backbone=dict(
        type='SIFAPlugin',
        backbone=dict(type='EfficientNetLite0'),
        after=[f'blocks.{number}._bn2' for number in (4, 6, 7, 10)]),
    cls_head=dict(in_channels=1280, dropout_ratio=0.5),
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3))
