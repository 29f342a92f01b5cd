_base_ = '../../schedule.py'

# tools/study.py writes the lists; each video is in its list once with each label

train_dataloader = dict(
    batch_size=_base_.batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(
            type='VideoDataset',
            ann_file='data/order/train_list_videos.txt',
            data_prefix=dict(video='data/order'),
            delimiter='\t')))
val_dataloader = dict(
    batch_size=_base_.batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='VideoDataset',
            ann_file='data/order/val_list_videos.txt',
            data_prefix=dict(video='data/order'),
            delimiter='\t',
            test_mode=True)))
test_dataloader = val_dataloader

val_evaluator = test_evaluator = dict(
    type='AccMetric',
    metric_list=('top_k_accuracy', ),
    metric_options=dict(top_k_accuracy=dict(topk=(1, ))))
