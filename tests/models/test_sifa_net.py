"""The SIFA block and SIFA-Net against the method, 2D ResNets and MMAction2's conventions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmaction.evaluation import mean_average_precision
from mmaction.models.backbones import ResNet
from mmaction.registry import MODELS, OPTIM_WRAPPERS
from mmaction.structures import ActionDataSample
from mmaction.utils import GradCAM
from small_networks import SMALL, recognizer, small_net
from torch.utils.flop_counter import FlopCounterMode

from mmsifa.models import SIFA, SIFAHead, SIFANet
from mmsifa.models.bottlenecks import GlobalContextBottleneck, TemporalBottleneck
from mmsifa.ops import inter_frame_attention


def batch(n=2, views=1, frames=8, size=32):
    inputs = [
        torch.randint(256, (views, 3, frames, size, size), dtype=torch.uint8) for _ in range(n)
    ]
    return dict(inputs=inputs, data_samples=[ActionDataSample().set_gt_label(i) for i in range(n)])


# The SIFA block


@pytest.mark.parametrize(
    'options', [{}, dict(kernel_size=5), dict(num_heads=2, softmax=True)], ids=str
)
def test_block_is_what_the_paper_says(options):
    block = SIFA(4, **options)
    torch.nn.init.normal_(block.conv_offset.weight, std=0.3)
    x = torch.randn(2, 3, 4, 6, 5)
    y = block(x)
    for t in range(2):
        now, following = x[:, t], x[:, t + 1]
        saliency = following * (1 + torch.sigmoid(following - now))
        offset = F.conv2d(saliency, block.conv_offset.weight, padding=1)
        attended = inter_frame_attention(
            now[:, None], following[:, None], offset[:, None], **options
        )
        torch.testing.assert_close(y[:, t], now + attended[:, 0])
    assert torch.equal(y[:, 2], x[:, 2])


@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'bfloat16'])
def test_half_precision_rounds_no_offset_of_a_block(autocast):
    block = SIFA(64)
    torch.nn.init.normal_(block.conv_offset.weight, std=0.4)
    block.to(torch.float32 if autocast else torch.bfloat16)
    kernel = block.conv_offset.weight
    x = torch.randn(2, 3, 64, 9, 9, dtype=torch.bfloat16)
    now, following = x[:, :-1], x[:, 1:]
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        offset = block.predict_offset(now, following)
        y = block(x)
    saliency = block.motion_saliency(now, following).flatten(0, 1).double()
    exact = F.conv2d(saliency, kernel.double(), padding=1)
    assert 8 < exact.abs().mean() < 16
    assert offset.dtype == torch.float32
    torch.testing.assert_close(offset.flatten(0, 1).double(), exact, rtol=1e-5, atol=1e-4)
    attended = inter_frame_attention(now, following, offset)
    assert attended.dtype == torch.bfloat16
    assert torch.equal(y[:, :-1], now + attended)
    (grad,) = torch.autograd.grad(y.square().sum(), kernel)
    assert grad.dtype == kernel.dtype
    assert grad.any()


def test_block_of_one_frame_changes_nothing_and_still_has_gradients():
    block = SIFA(4)
    x = torch.randn(2, 1, 4, 6, 5)
    y = block(x)
    assert torch.equal(y, x)
    y.sum().backward()
    assert block.conv_offset.weight.grad is not None  # DistributedDataParallel waits for it


def test_block_learns_offsets_from_zero():
    block = SIFA(4)
    assert not block.conv_offset.weight.any()
    block(torch.randn(1, 2, 4, 6, 5)).square().sum().backward()
    assert block.conv_offset.weight.grad.any()


def test_block_without_deformation_looks_at_the_plain_neighbours():
    block = SIFA(4, deformable=False)
    assert not list(block.parameters())
    x = torch.randn(1, 2, 4, 6, 5)
    attended = inter_frame_attention(x[:, :1], x[:, 1:], torch.zeros(1, 1, 18, 6, 5))
    torch.testing.assert_close(block(x)[:, :1], x[:, :1] + attended)


def test_block_keeps_channels_last():
    x = torch.randn(2, 3, 6, 5, 4).permute(0, 1, 4, 2, 3)
    assert SIFA(4)(x).flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_block_under_autocast():
    block = SIFA(4)
    with torch.autocast('cpu', torch.bfloat16):
        assert block(torch.randn(1, 2, 4, 6, 5)).dtype == torch.float32
        assert block(torch.randn(1, 2, 4, 6, 5).bfloat16()).dtype == torch.bfloat16


def test_block_is_registered_and_names_mistakes():
    with pytest.raises(ValueError, match='kernel_size must be odd, got 2'):
        SIFA(4, kernel_size=2)
    with pytest.raises(ValueError, match='num_heads must divide 4 channels, got 3'):
        SIFA(4, num_heads=3)
    block = MODELS.build(dict(type='SIFA', channels=4))
    with pytest.raises(ValueError, match=r'expects \(N, T, 4, H, W\) features, got \(2, 4, 6, 5\)'):
        block(torch.randn(2, 4, 6, 5))
    with pytest.raises(
        ValueError, match=r'expects \(N, T, 4, H, W\) features, got \(1, 2, 3, 6, 5\)'
    ):
        block(torch.randn(1, 2, 3, 6, 5))


# The network


@pytest.mark.parametrize(
    ('depth', 'frames', 'parameters', 'gmacs'),
    [(50, 16, 43.0, 23.9), (50, 32, 43.0, 47.8), (101, 16, 63.6, 39.0), (101, 32, 63.6, 78.0)],
)
def test_sizes_are_those_of_the_released_network(depth, frames, parameters, gmacs):
    with torch.device('meta'):
        net, head = SIFANet(depth), SIFAHead(num_classes=400, in_channels=2048)
        clip = torch.empty(1, 3, frames, 224, 224)
    # The release also predicts offsets for the last frame and throws them away.
    thrown_away = 0

    def count(conv, _, out):
        nonlocal thrown_away
        thrown_away += conv.weight.numel() * out.shape[2] * out.shape[3]

    for module in net.modules():
        if isinstance(module, SIFA):
            module.conv_offset.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        head(net(clip))
    flops = counter.get_flop_counts()['Global']  # those of convolutions and linear layers
    flops = sum(n for op, n in flops.items() if 'inter_frame_attention' not in str(op))
    assert round((flops / 2 + thrown_away) / 1e9, 1) == gmacs
    millions = sum(p.numel() for m in (net, head) for p in m.parameters()) / 1e6
    assert round(millions, 1) == parameters


def test_layout_of_blocks():
    net = SIFANet(50)
    kinds = [[type(block).__name__[0] for block in getattr(net, stage)] for stage in net.stages]
    assert kinds == [list('FFF'), list('GTGT'), list('GTGTGT'), list('GTG')]
    assert [type(b).__name__[0] for b in net.layer4_dual] == list('GTG')


def test_output_shapes_and_stages():
    net = SIFANet(**SMALL, out_indices=(0, 1, 2, 3))
    shapes = [tuple(out.shape) for out in net(torch.randn(2, 3, 12, 64, 96))]
    assert shapes == [
        (2, 32, 3, 16, 24),
        (2, 64, 3, 8, 12),
        (2, 128, 3, 4, 6),
        (2, 256, 3, 2, 3),
        (2, 256, 2, 4, 6),  # the dual path keeps an odd last frame
    ]
    single = SIFANet(**SMALL, dual_path=False).eval()
    assert single(torch.randn(1, 3, 4, 32, 32)).shape == (1, 256, 1, 1, 1)


def test_stem_is_a_convolution_over_tubelets():
    net = small_net().eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    kernel = net.conv1.conv.weight.unflatten(1, (3, 4))  # (64, 3, 4, 7, 7)
    expected = F.conv3d(clip, kernel, stride=(4, 2, 2), padding=(0, 3, 3))
    stem = net.conv1.conv(net._stack_tubelets(clip)).unflatten(0, (2, 2)).transpose(1, 2)
    torch.testing.assert_close(stem, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_still_clip_without_sifa_has_the_features_of_the_2d_resnet(weights_file):
    image = torch.randn(2, 3, 64, 64)
    clip = image[:, :, None].expand(-1, -1, 8, -1, -1)
    stages = dict(pretrained=weights_file, out_indices=(0, 1, 2, 3))
    net = SIFANet(stage_with_sifa=[False] * 4, **stages)
    plain, dense = ResNet(50, **stages), ResNet(50, strides=(1, 2, 2, 1), **stages)
    for model in (net, plain, dense):
        model.init_weights()
        model.train(False)
    with torch.no_grad():
        *features, dual = net(clip)
        for ours, theirs in zip(features, plain(image), strict=True):
            for t in range(2):
                torch.testing.assert_close(ours[:, :, t], theirs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(dual[:, :, 0], dense(image)[3], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_still_clip_with_sifa_keeps_the_2d_features_where_the_method_does(weights_file):
    image = torch.randn(1, 3, 64, 64)
    stages = dict(pretrained=weights_file, out_indices=(0, 1, 2, 3))
    net, plain = SIFANet(**stages), ResNet(50, **stages)
    for model in (net, plain):
        model.init_weights()
        model.train(False)
    with torch.no_grad():
        *features, _ = net(image[:, :, None].expand(-1, -1, 12, -1, -1))
        expected = plain(image)
    for i, (ours, theirs) in enumerate(zip(features, expected, strict=True)):
        # The last frame attends to nothing, and a fresh global context adds nothing.
        torch.testing.assert_close(ours[:, :, -1], theirs, rtol=1e-3, atol=1e-4)
        same = torch.allclose(ours[:, :, 0], theirs, rtol=1e-3, atol=1e-4)
        assert same == (i == 0)  # stage 1 has no SIFA; in the others it acts


def test_fresh_residual_branches_start_at_zero():
    net = SIFANet(**SMALL)
    net.init_weights()
    net.eval()
    clip = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 12, -1, -1)
    main, dual = net(clip)
    assert main.any()
    torch.testing.assert_close(main, main[:, :, :1].expand_as(main))
    torch.testing.assert_close(dual, dual[:, :, :1].expand_as(dual))
    for module in net.modules():
        if isinstance(module, TemporalBottleneck):
            assert not module.sifa.conv_offset.weight.any()
        if isinstance(module, GlobalContextBottleneck):
            assert not module.fc2.weight.any()
    net = SIFANet(**SMALL, zero_init_residual=False)
    net.init_weights()
    assert net.layer1[0].conv3.norm.weight.all()


def test_options_reach_the_blocks():
    net = SIFANet(
        stage_blocks=(2, 2, 2, 2),
        base_channels=8,
        stage_with_sifa=(True, False, True, True),
        kernel_sizes=(1, 3, 5, 3),
        num_heads=2,
        between_frames=dict(type='SIFA', softmax=True, deformable=False),
    )
    blocks = {n: m for n, m in net.named_modules() if isinstance(m, SIFA)}
    assert {name: block.kernel_size for name, block in blocks.items()} == {
        'layer1.1.sifa': 1,
        'layer3.1.sifa': 5,
        'layer4.1.sifa': 3,
        'layer4_dual.1.sifa': 3,
    }
    for block in blocks.values():
        assert (block.num_heads, block.softmax, block.deformable) == (2, True, False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=18), r'depth must be one of \[50, 101\], got 18'),
        (dict(num_stages=5), 'num_stages must be 1 to 4, got 5'),
        (dict(num_stages=3), 'dual_path needs num_stages=4, got 3: set dual_path=False'),
        (dict(frozen_stages=5), 'frozen_stages must be -1 to 4, got 5'),
        (dict(out_indices=(4,)), r'out_indices must be stages out of 0 to 3, got \(4,\)'),
        (dict(kernel_sizes=(3, 3)), r'kernel_sizes must have a value for each of 4 stages'),
    ],
    ids=lambda x: str(x)[:30],
)  # fmt: skip
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SIFANet(**options)


@pytest.mark.parametrize(
    'shape',
    [(2, 3, 32, 32), (1, 3, 6, 32, 32), (1, 4, 8, 32, 32), (1, 3, 0, 32, 32)],
    ids=['4-dimensional', '6-frames', '4-channels', 'no-frame'],
)
def test_wrong_inputs_are_named(shape):
    message = r'expects clips of shape \(N, 3, T, H, W\) with T a multiple of 4 frames, got '
    with pytest.raises(ValueError, match=message + str(shape)[:-1].replace('(', r'\(')):
        SIFANet(**SMALL)(torch.zeros(shape))


# Training


def train_steps(model, count=2, **wrapper):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optim_wrapper = OPTIM_WRAPPERS.build(
        {'type': 'OptimWrapper', 'optimizer': optimizer, **wrapper}
    )
    model.train()
    return [model.train_step(batch(), optim_wrapper) for _ in range(count)]


@pytest.mark.parametrize('frozen_stages', [0, 2, 4])
def test_frozen_stages_do_not_change(frozen_stages):
    model = recognizer(dict(SMALL, frozen_stages=frozen_stages))
    frozen = ('conv1.', *(f'layer{i + 1}' for i in range(frozen_stages)))
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    train_steps(model)
    changed = {
        n for n, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, before[n])
    }
    assert not {name for name in changed if name.startswith(frozen)}
    assert bool(changed) == (frozen_stages < 4)
    if frozen_stages < 4:
        assert {'layer4.0.conv1.bn.running_mean', 'layer4_dual.0.conv1.bn.running_mean'} <= changed


def test_norm_eval_keeps_statistics_and_modes_return_the_network():
    net = SIFANet(**SMALL, norm_eval=True)
    mean = net.layer1[0].conv1.bn.running_mean.clone()
    assert net.train() is net
    net(torch.randn(2, 3, 8, 32, 32))
    assert torch.equal(net.layer1[0].conv1.bn.running_mean, mean)
    assert net.eval() is net


@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_with_cp_has_the_same_gradients(frozen_stages):
    plain = small_net(norm_eval=True, frozen_stages=frozen_stages)
    lean = small_net(norm_eval=True, frozen_stages=frozen_stages, with_cp=True)
    lean.load_state_dict(plain.state_dict())
    clip = torch.randn(2, 3, 8, 32, 32)
    for net in (plain, lean):
        net.train()
        sum(out.square().mean() for out in net(clip)).backward()
    gradients = {name: p.grad for name, p in lean.named_parameters()}
    for name, parameter in plain.named_parameters():
        assert (parameter.grad is None) == name.startswith(('conv1', 'layer1')[: frozen_stages + 1])
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_mixed_precision_in_bfloat16():
    model = recognizer()
    seen = []
    model.backbone.layer3.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    before = model.backbone.conv1.conv.weight.clone()
    losses = train_steps(model, type='AmpOptimWrapper', dtype='bfloat16')
    assert seen == [torch.bfloat16] * 2
    assert all(loss['loss'].isfinite() and loss['loss'].dtype == torch.float32 for loss in losses)
    assert not torch.equal(model.backbone.conv1.conv.weight, before)


@pytest.mark.slow
def test_compiles_into_one_graph():
    net = small_net(stage_blocks=(1, 2, 1, 1)).eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')  # needs no C++ compiler
    with torch.no_grad():
        for ours, theirs in zip(compiled(clip), net(clip), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# The head and the recognizer


def test_head_classifies_both_paths():
    head = SIFAHead(num_classes=5, in_channels=8).eval()
    head.init_weights()
    main, dual = torch.randn(2, 8, 4, 3, 3), torch.randn(2, 8, 2, 6, 6)
    logits, logits_dual = head((main, dual))
    torch.testing.assert_close(logits, head.fc_cls(main.mean((2, 3, 4))))
    torch.testing.assert_close(logits_dual, head.fc_cls_dual(dual.mean((2, 3, 4))))


def test_head_adds_both_losses():
    head = SIFAHead(
        num_classes=5, in_channels=8, loss_cls=dict(type='CrossEntropyLoss', loss_weight=4.0)
    )
    scores = torch.randn(2, 3, 5)
    losses = head.loss_by_feat(scores.unbind(), batch(3)['data_samples'])
    labels = torch.arange(3)
    torch.testing.assert_close(losses['loss_cls'], 4 * F.cross_entropy(scores[0], labels))
    torch.testing.assert_close(losses['loss_cls_dual'], 4 * F.cross_entropy(scores[1], labels))
    assert {'top1_acc', 'top5_acc', 'top1_acc_dual', 'top5_acc_dual'} <= losses.keys()


@pytest.mark.parametrize('average_clips', ['prob', 'score', None])
def test_score_is_the_mean_of_both_softmaxes_then_of_the_clips(average_clips):
    head = SIFAHead(num_classes=5, in_channels=8, average_clips=average_clips)
    scores = torch.randn(2, 6, 5)  # two paths, three clips of two videos
    samples = head.predict_by_feat(scores.unbind(), batch(2)['data_samples'])
    clips = scores.softmax(-1).mean(0).view(2, 3, 5)
    expected = {'prob': clips.mean(1), 'score': clips.log().mean(1), None: clips.log()}
    for sample, score in zip(samples, expected[average_clips], strict=True):
        torch.testing.assert_close(sample.pred_score, score)


def multi_class_head(**options):
    loss = dict(type='BCELossWithLogits')
    return SIFAHead(num_classes=5, in_channels=8, multi_class=True, loss_cls=loss, **options)


@pytest.mark.parametrize('average_clips', ['prob', 'score', None])
def test_with_multi_class_it_is_the_mean_of_both_sigmoids(average_clips):
    head = multi_class_head(average_clips=average_clips)
    scores = 4 * torch.randn(2, 6, 5)  # two paths, three clips of two videos
    scores[:, 0, :2] = torch.tensor([90.0, -90.0])
    samples = head.predict_by_feat(scores.unbind(), batch(2)['data_samples'])
    clips = scores.double().sigmoid().mean(0).view(2, 3, 5)
    logits = clips.log() - (-scores.double()).sigmoid().mean(0).log().view(2, 3, 5)
    expected = {'prob': clips.mean(1), 'score': logits.mean(1), None: logits}
    for sample, score in zip(samples, expected[average_clips], strict=True):
        torch.testing.assert_close(sample.pred_score, score.float())


def test_with_multi_class_a_sample_may_have_all_classes_or_none():
    strong, weak, scores = torch.tensor([4.0, 4]), torch.tensor([[1.0, -3], [-3, 1]]), []
    head = SIFAHead(2, 4, multi_class=True, average_clips='prob')
    logits = torch.stack([strong, *weak])
    for sample in head.predict_by_feat((logits, logits), batch(3)['data_samples']):
        scores.append(sample.pred_score.numpy())
    labels = list(np.array([[1, 1], [0, 0], [0, 0]]))
    assert mean_average_precision(scores, labels) == 1


@pytest.mark.parametrize('eps', [0, 0.1])
def test_with_multi_class_it_learns_each_class_by_itself(eps):
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    samples = [ActionDataSample().set_gt_label(label) for label in labels]
    scores = torch.randn(2, 2, 5)
    losses = multi_class_head(label_smooth_eps=eps).loss_by_feat(scores.unbind(), samples)
    targets = (1 - eps) * labels + eps / 5
    for name, path in zip(('loss_cls', 'loss_cls_dual'), scores, strict=True):
        expected = F.binary_cross_entropy_with_logits(path, targets)
        torch.testing.assert_close(losses[name], expected)


def test_head_names_wrong_features():
    head = SIFAHead(num_classes=5, in_channels=8)
    with pytest.raises(ValueError, match=r'features of two paths.*got one tensor.*I3DHead'):
        head(torch.randn(2, 8, 4, 3, 3))
    with pytest.raises(ValueError, match=r'features of two paths.*got 3 features'):
        head([torch.randn(2, 8, 4, 3, 3)] * 3)


@pytest.mark.parametrize('test_cfg', [None, dict(max_testing_views=4)], ids=str)
def test_clips_and_crops_are_averaged(test_cfg):
    model = recognizer(test_cfg=test_cfg).eval()
    data = batch(n=1, views=6)  # two clips of three crops
    with torch.no_grad():
        score = model.test_step(data)[0].pred_score
        views = model.data_preprocessor(batch_of(data))['inputs'][0]
        logits = model.cls_head(model.backbone(views))
    torch.testing.assert_close(score, torch.stack(logits).softmax(-1).mean((0, 1)))
    assert score.sum().item() == pytest.approx(1)


def batch_of(data):
    return {key: list(value) for key, value in data.items()}


def test_single_path_works_with_mmaction2s_head():
    model = recognizer(
        dict(SMALL, dual_path=False),
        dict(type='I3DHead', num_classes=5, in_channels=256, average_clips='prob'),
    )
    assert all(loss['loss'].isfinite() for loss in train_steps(model))
    assert model.eval().test_step(batch(views=3))[0].pred_score.shape == (5,)


@pytest.mark.parametrize(('batch_size', 'counts'), [(4, 1), (2, 2), (1, 4)])
def test_an_update_has_the_weight_times_the_mean_gradient_of_its_clips(batch_size, counts):
    """The released recipe: weight 4, with 4 accumulated batches; so it adds them up."""
    weight = 4.0
    head = dict(type='SIFAHead', num_classes=5, in_channels=256, dropout_ratio=0)
    clips, gradients = batch(n=4), []
    for size, n, loss_weight in ((4, 1, 1.0), (batch_size, counts, weight)):
        torch.manual_seed(0)
        loss = dict(type='CrossEntropyLoss', loss_weight=loss_weight)
        model = recognizer(dict(SMALL, norm_eval=True), dict(head, loss_cls=loss))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        wrapper = OPTIM_WRAPPERS.build(
            dict(type='OptimWrapper', optimizer=optimizer, accumulative_counts=n)
        )
        wrapper.initialize_count_status(model, 0, n)
        model.train()
        before = model.cls_head.fc_cls.weight.detach().clone()
        for i in range(0, 4, size):
            model.train_step({key: value[i : i + size] for key, value in clips.items()}, wrapper)
        gradients.append(before - model.cls_head.fc_cls.weight)
    torch.testing.assert_close(gradients[1], weight * gradients[0], atol=1e-5, rtol=1e-4)


def test_grad_cam_of_a_stage_is_that_of_its_features():
    """MMAction2's Grad-CAM takes modules to return (N, C, T, H, W)."""
    backbone = dict(type='SIFANet', dual_path=False, **SMALL)
    head = dict(type='I3DHead', num_classes=3, in_channels=256, average_clips='prob', init_std=1)
    scale = dict(mean=[127.5] * 3, std=[64.0] * 3, format_shape='NCTHW')
    cfg = dict(type='Recognizer3D', backbone=backbone, cls_head=head)
    cfg['data_preprocessor'] = dict(type='ActionDataPreprocessor', **scale)
    model = MODELS.build(cfg)
    model.init_weights()
    model.backbone.load_state_dict(small_net(dual_path=False).state_dict())
    model.eval()
    clip = torch.randint(0, 256, (1, 3, 12, 64, 80), dtype=torch.uint8)
    data = dict(inputs=[clip], data_samples=[ActionDataSample().set_gt_label(1)])
    cam, _ = GradCAM(model, 'backbone/layer2')._calculate_localization_map(data, use_labels=False)

    net = model.backbone
    features = []
    net.layer2.register_forward_hook(lambda module, args, out: features.append(out))
    out = net((clip.float() - 127.5) / 64)
    score = model.cls_head(out).max()
    (gradient,) = torch.autograd.grad(score, features[0])
    assert gradient.shape == (1, 64, 3, 8, 10)
    heat = (gradient.mean(dim=(3, 4), keepdim=True) * features[0]).sum(dim=1, keepdim=True).relu()
    heat = torch.nn.functional.interpolate(heat, (12, 64, 80), mode='trilinear')[0]
    expected = (heat - heat.min()) / (heat.max() - heat.min())
    torch.testing.assert_close(cam, expected.detach(), rtol=1e-3, atol=1e-3)
