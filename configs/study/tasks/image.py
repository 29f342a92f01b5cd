_base_ = '_base_/synthetic.py'

# Single frames, on which the networks of all other tasks are trained before
iterations = 5000
quick_iterations = 800
num_frames = 1
displacements = (0, )
disturbances = dict(_delete_=True)

clips = dict(task='appearance', num_frames=num_frames, displacements=displacements)
# A plain background in half of them, or else a small Swin stays at chance
train_dataloader = dict(
    dataset=dict(**clips, num_clips=iterations * _base_.batch_size, plain=0.5))
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
