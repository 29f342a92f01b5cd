# SIFA blocks in the ConvNeXt-Tiny of transformers, frame by frame
_base_ = [
    '../_base_/models/sifa_swin_b.py', '../_base_/datasets/kinetics400.py',
    '../_base_/schedules/adamw_30e.py', '../_base_/default_runtime.py'
]

backbone = dict(
    type='transformers.ConvNextBackbone.from_pretrained',
    pretrained_model_name_or_path='facebook/convnext-tiny-224',
    out_features=['stage4'])
model = dict(
    backbone=dict(
        _delete_=True, type='SIFAPlugin', backbone=backbone, after=['encoder.stages.2.layers.*']),
    cls_head=dict(in_channels=768))
train_dataloader = dict(batch_size=8)
