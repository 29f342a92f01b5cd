_base_ = '../sifa_swin_l_k400.py'

# Parameters, gradients and the optimizer's state in shards; blocks of 10 M parameters at a time
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=10**7)),
    state_dict_cfg='full')
