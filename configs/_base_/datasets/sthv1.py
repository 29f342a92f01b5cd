# What leaf configs put in the place of Something-Something V2: raw frames, VIDEO/00001.jpg
sthv1 = dict(
    train=dict(
        type='CheckedRawframeDataset',
        ann_file='data/sthv1/sthv1_train_list_rawframes.txt',
        data_prefix=dict(img='data/sthv1/rawframes'),
        filename_tmpl='{:05}.jpg'))
sthv1['val'] = dict(
    sthv1['train'], ann_file='data/sthv1/sthv1_val_list_rawframes.txt', test_mode=True)
sthv1['test'] = sthv1['val']
