_base_ = '../drawn_clips.py'

# Single frames, on which the networks of all other tasks are trained before
iterations = 4000
quick_iterations = 800  # of --quick
num_frames = 1
displacements = (0, )
disturbances = dict(_delete_=True)

clips = dict(task='appearance', num_frames=num_frames, displacements=displacements)
# Mostly on a plain background, or else a small Swin may stay at chance
train_dataloader = dict(
    dataset=dict(**clips, num_clips=iterations * _base_.batch_size, plain=0.8))
val_dataloader = test_dataloader = dict(dataset=clips)
del clips
