_base_ = 'recognizer3d.py'

trunk = 'c2d'  # whose weights of single frames it starts from

# 5 bottlenecks on frames of 64 x 64 pixels, two of which have a part between frames
model = dict(
    backbone=dict(
        type='SIFANet',
        tubelet_size=1,
        num_stages=3,
        stage_blocks=(1, 2, 2),
        strides=(1, 2, 2),
        base_channels=16,
        out_indices=(2, ),
        dual_path=False,
        zero_init_residual=False),
    cls_head=dict(in_channels=256))
