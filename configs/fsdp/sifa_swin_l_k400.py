_base_ = '../sifa_swin_l_k400.py'

# Parameters, gradients and the optimizer's state are shared out among the ranks
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', auto_wrap_policy='wrap_blocks'),
    state_dict_cfg='full')
