_base_ = 'play_order.py'

num_classes = 8  # directions
displacement = 4  # pixels per frame

train_pipeline = val_pipeline = test_pipeline = _base_.train_pipeline
train_pipeline[1].frame_interval = 1
train_pipeline[3].scale = (-1, 112)
train_pipeline[4:6] = [dict(type='PanningCrop', size=64, displacement=displacement)]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(
    dataset=dict(dataset=dict(dataset=dict(pipeline=val_pipeline))))
