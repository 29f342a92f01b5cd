_base_ = 'gestures.py'

# Exercises, of which single frames say much: larger and fewer frames, smaller batches
batch_size = 8
num_frames = 8
size = (128, 96)
head = None  # that of the network, an average over frames

train_pipeline = [step for step in _base_.train_pipeline if step.type != 'SubtractBackground']
val_pipeline = [step for step in _base_.val_pipeline if step.type != 'SubtractBackground']
for pipeline in (train_pipeline, val_pipeline):
    for step in pipeline:
        if step.type == 'KeepFrames':
            step.update(num_frames=3 * num_frames, height=112)
        elif step.type == 'UniformSample':
            step.clip_len = num_frames
        elif step.type == 'Resize':
            step.scale = size
test_pipeline = val_pipeline
disturbances = dict(
    shuffled=dict(pipeline=[*val_pipeline[:3], dict(type='ShuffleFrames'), *val_pipeline[3:]]),
    prepared=dict(pipeline=[dict(val_pipeline[0], short_side=112), *val_pipeline[1:]]))

train_dataloader = dict(batch_size=batch_size, dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(
    batch_size=batch_size, dataset=dict(pipeline=val_pipeline))
del pipeline, step
