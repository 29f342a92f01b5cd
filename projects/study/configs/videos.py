_base_ = 'schedule.py'

# run.py writes the lists; each video is in its list once with each label
videos = dict(
    type='VideoDataset', data_prefix=dict(video='data/order'), delimiter='\t')
loader = dict(batch_size=_base_.batch_size, num_workers=0)

train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(**videos, ann_file='data/order/train_list_videos.txt')))
val_dataloader = test_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SeededDataset',  # held-out clips are drawn anew by their number
        dataset=dict(
            type='RepeatDataset',
            times=1,
            dataset=dict(**videos, ann_file='data/order/val_list_videos.txt'))))
del videos, loader

val_evaluator = test_evaluator = dict(
    type='AccMetric',
    metric_list=('top_k_accuracy', ),
    metric_options=dict(top_k_accuracy=dict(topk=(1, ))))
