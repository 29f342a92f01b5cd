_base_ = 'recognizer3d.py'

trunk = 'swin_2d'  # whose weights of single frames it starts from
iterations = 1000  # it takes longer than a ResNet
optim_wrapper = dict(optimizer=dict(lr=1e-3))

# Maps of 16 x 16 and 8 x 8 positions, so that both stages have shifted blocks
model = dict(
    backbone=dict(
        type='SIFATransformer',
        arch=dict(embed_dims=32, depths=(2, 2), num_heads=(2, 4)),
        patch_size=(1, 4, 4),
        window_size=(1, 4, 4),
        img_size=64,
        out_indices=(1, ),
        drop_path_rate=0.0),
    cls_head=dict(in_channels=64))
