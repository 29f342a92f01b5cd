_base_ = 'play_order.py'

num_classes = 8  # directions
displacement = 4  # pixels per frame

train_pipeline = _base_.train_pipeline
val_pipeline = test_pipeline = _base_.val_pipeline
for pipeline in (train_pipeline, val_pipeline):
    pipeline[1].frame_interval = 1
    pipeline[3].scale = (-1, 112)
    pipeline[4:6] = [dict(type='PanningCrop', size=64, displacement=displacement)]
del pipeline

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(dataset=dict(dataset=dict(pipeline=val_pipeline)))
