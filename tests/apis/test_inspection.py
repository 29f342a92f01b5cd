"""What is recorded of inter-frame attention, against the method, and what is drawn of it."""

from contextlib import contextmanager
from itertools import pairwise

import cv2
import decord
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmaction.apis import inference_recognizer, init_recognizer
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import nn

from mmsifa.__main__ import main
from mmsifa.apis import load_config
from mmsifa.apis.inspection import Inspection, LayerAttention, capture_attention, inspect_video
from mmsifa.apis.inspection.capture import frames_of_features
from mmsifa.apis.inspection.figure import (
    figure_to_image,
    finest_layer,
    flow_colours,
    summary_figure,
    write_summary,
)
from mmsifa.apis.inspection.records import choose_positions
from mmsifa.datasets.pipelines import one_view_pipeline
from mmsifa.fileio.video import UnreadableVideoError, VideoWriter
from mmsifa.models import SIFA, SIFANet, SIFAPlugin, SIFATransformer
from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights

OPTIONS = {
    'plain': dict(),
    'heads': dict(num_heads=2),
    'softmax': dict(softmax=True, num_heads=4),
    'wide': dict(kernel_size=5, dilation=2, scale=0.3),
}


def samples_of(value, offset, kernel_size=3, dilation=1):
    """The K*K samples (N, T, K*K, C, H, W) by PyTorch's own bilinear sampler, in float64."""
    n, t, _, h, w = value.shape
    half = kernel_size // 2
    taps = []
    for k in range(kernel_size**2):
        ky, kx = divmod(k, kernel_size)
        y = torch.arange(h).double()[:, None] + dilation * (ky - half) + offset[:, :, 2 * k]
        x = torch.arange(w).double()[None, :] + dilation * (kx - half) + offset[:, :, 2 * k + 1]
        grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
        sampled = F.grid_sample(value.flatten(0, 1), grid.flatten(0, 1), align_corners=False)
        taps.append(sampled.unflatten(0, (n, t)))
    return torch.stack(taps, dim=2)


def weights_of(query, samples, num_heads=1, scale=None, softmax=False):
    """Attention weights (N, T, G, K*K, H, W)."""
    per_head = query.shape[2] // num_heads
    q = query.unflatten(2, (num_heads, per_head))
    s = samples.unflatten(3, (num_heads, per_head))
    scores = torch.einsum('ntgchw,ntkgchw->ntgkhw', q, s) * (scale or 1 / per_head)
    return scores.softmax(dim=3) if softmax else scores


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_weights_are_those_that_the_op_uses(options):
    query, value = torch.randn(2, 2, 3, 8, 5, 7, dtype=torch.float64)
    taps = options.get('kernel_size', 3) ** 2
    offset = 1.5 * torch.randn(2, 3, 2 * taps, 5, 7, dtype=torch.float64)
    weights = inter_frame_attention_weights(query, value, offset, **options)
    grid = {key: options[key] for key in ('kernel_size', 'dilation') if key in options}
    rest = {key: options[key] for key in options.keys() - grid.keys()}
    samples = samples_of(value, offset, **grid)
    torch.testing.assert_close(weights, weights_of(query, samples, **rest))
    per_channel = weights.repeat_interleave(8 // weights.shape[2], dim=2)
    out = torch.einsum('ntckhw,ntkchw->ntchw', per_channel, samples)
    torch.testing.assert_close(out, inter_frame_attention(query, value, offset, **options))


def test_weights_of_half_precision_are_float32_and_wrong_arguments_are_refused():
    query, value = torch.randn(2, 1, 2, 4, 5, 5)
    offset = torch.randn(1, 2, 18, 5, 5)
    half = [x.bfloat16() for x in (query, value, offset)]
    weights = inter_frame_attention_weights(*half)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, inter_frame_attention_weights(*(x.float() for x in half)))
    with pytest.raises(ValueError, match=r'offset must have shape \(1, 2, 50, 5, 5\)'):
        inter_frame_attention_weights(query, value, offset, kernel_size=5)
    with pytest.raises(ValueError, match='num_heads must divide the 4 channels'):
        inter_frame_attention_weights(query, value, offset, num_heads=3)


def with_effect(net):
    """Fill what starts at zero, so that every part has an effect."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def sifa_net(**options):
    return with_effect(SIFANet(stage_blocks=(1, 2, 2, 2), base_channels=8, **options))


def sifa_transformer(**options):
    arch = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
    return with_effect(SIFATransformer(arch, out_indices=(1,), **options))


def sifa_plugin(**options):
    trunk = dict(type='mmaction.ResNet', depth=18)
    return with_effect(SIFAPlugin(trunk, ['layer2.1', 'layer3.*'], **options))


SOFTMAX = dict(type='SIFA', softmax=True)
NETWORKS = {
    'sifa-net': (sifa_net, dict(), 4),
    'sifa-net-heads': (
        sifa_net,
        dict(num_heads=2, between_frames=dict(type='SIFA', softmax=True)),
        4,
    ),
    'sifa-net-rigid': (sifa_net, dict(between_frames=dict(type='SIFA', deformable=False)), 4),
    'sifa-transformer': (sifa_transformer, dict(), 2),
    'sifa-plugin': (sifa_plugin, dict(), 3),
}


@contextmanager
def inputs_of(net):
    """Keep what the SIFA layers get, in the order in which they run."""
    seen = []
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args, name=name: seen.append((name, layer, args[0].double()))
        )
        for name, layer in net.named_modules()
        if isinstance(layer, SIFA)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def hooks_of(net):
    return [hook for module in net.modules() for hook in module._forward_hooks.values()]


@pytest.mark.parametrize(('make', 'options', 'count'), NETWORKS.values(), ids=NETWORKS)
@torch.no_grad()
def test_records_are_what_the_layers_do_and_leave_no_trace(make, options, count):
    net = make(**options)
    clips = torch.randn(2, 3, 16, 64, 64)
    plain, hooks = net(clips), hooks_of(net)
    with inputs_of(net) as seen, capture_attention(net, num_frames=16, clip=1) as records:
        captured = net(clips)
    assert hooks_of(net) == hooks
    as_tuple = lambda out: out if isinstance(out, tuple) else (out,)  # noqa: E731
    assert all(map(torch.equal, as_tuple(captured), as_tuple(plain)))

    seen = [(name, layer, x) for name, layer, x in seen if x.shape[1] > 1]
    assert [record.name for record in records] == [name for name, _, _ in seen]
    assert len(records) == count
    for record, (_, layer, x) in zip(records, seen, strict=True):
        now, following = x[1:, :-1], x[1:, 1:]
        moving = following * (1 + torch.sigmoid(following - now))
        offset = torch.zeros(1, len(now[0]), 18, *x.shape[-2:], dtype=torch.float64)
        if layer.deformable:
            kernel = layer.conv_offset.weight.double()
            offset[0] = F.conv2d(moving[0], kernel, padding=1)
            assert abs(offset).mean() > 0.001
        weights = weights_of(
            now, samples_of(following, offset), layer.num_heads, None, layer.softmax
        )
        close = dict(rtol=1e-3, atol=1e-4, check_dtype=False)
        moved = offset[0].unflatten(1, (9, 2))
        torch.testing.assert_close(torch.tensor(record.offset), moved, **close)
        torch.testing.assert_close(torch.tensor(record.weights), weights[0], **close)
        saliency = moving[0].abs().mean(dim=1)
        torch.testing.assert_close(torch.tensor(record.saliency), saliency, **close)
        assert record.frames == frames_of_features(16, x.shape[1])
        assert (record.kernel_size, record.dilation) == (3, 1)


def test_hooks_are_gone_after_an_exception_and_absent_clips_are_refused():
    net = SIFA(8)
    x = torch.randn(2, 3, 8, 5, 5)
    absent = pytest.raises(ValueError, match=r'no clip 2 to record: .* sees 2, from 0 on')
    with absent, capture_attention(net, clip=2):
        net(x)
    wrong = pytest.raises(ValueError, match=r'expects \(N, T, 8, H, W\)')
    with wrong, capture_attention(net):
        net(x[0])
    assert not hooks_of(net)
    nothing = pytest.raises(ValueError, match='Linear has no SIFA layer; take a recognizer with')
    with nothing, capture_attention(nn.Linear(2, 2)):
        pass


def test_a_shared_layer_is_recorded_each_time_and_a_single_frame_is_not():
    block = SIFA(8)
    net = nn.Sequential(block, nn.ReLU(), block)
    x = torch.randn(1, 3, 8, 5, 5)
    with capture_attention(net) as records:
        net(x)
        block(x=x[:, :1])
    assert [record.name for record in records] == ['0', '0 (2)']
    assert records[0].frames == [0, 1, 2]
    assert not np.array_equal(records[0].weights, records[1].weights)


@pytest.mark.parametrize('deformable', [True, False], ids=['deformed', 'rigid'])
@torch.no_grad()
def test_a_bidirectional_layer_has_a_record_for_each_direction(deformable):
    """What it finds ahead, and behind in a clip that is played backwards."""
    both = with_effect(SIFA(8, bidirectional=True, softmax=True, deformable=deformable))
    x = torch.randn(2, 3, 8, 5, 6)
    with capture_attention(both, num_frames=12, clip=1) as records:
        both(x)
    assert [record.name for record in records] == ['', ' behind']
    assert [record.frames for record in records] == [[2, 6, 10], [10, 6, 2]]
    for record, frames, i in zip(records, (x, x.flip(1)), range(2), strict=True):
        share = frames[1:, :, 2 * i : 2 * i + 2]
        now, following = share[:, :-1], share[:, 1:]
        predictor = ('conv_offset', 'conv_offset_behind')[i]
        offset = both.predict_offset(now, following, predictor=predictor)
        weights = inter_frame_attention_weights(now, following, offset, softmax=True)
        moved = offset[0].unflatten(1, (9, 2))
        assert moved.any() == deformable
        torch.testing.assert_close(torch.tensor(record.offset), moved)
        torch.testing.assert_close(torch.tensor(record.weights), weights[0])


@pytest.mark.parametrize('mode', ['bfloat16', 'autocast', 'checkpointed'])
def test_half_precision_autocast_and_with_cp(mode):
    net = sifa_net(with_cp=mode == 'checkpointed')
    clips = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad(), capture_attention(net, 8) as full:
        net(clips)
    dtype = torch.bfloat16 if mode == 'bfloat16' else torch.float32
    net = net.to(dtype)
    amp = torch.autocast('cpu', torch.bfloat16, enabled=mode == 'autocast')
    with torch.no_grad(), amp, capture_attention(net, 8) as records:
        net(clips.to(dtype))
    assert len(records) == len(full) > 0
    first, exact = records[0], full[0]
    for name in ('offset', 'weights', 'saliency'):
        value, wanted = getattr(first, name), getattr(exact, name)
        assert value.dtype == np.float32
        assert np.linalg.norm(value - wanted) < 0.1 * np.linalg.norm(wanted), name
    if mode == 'checkpointed':
        assert np.array_equal(first.weights, exact.weights)


def test_a_frame_in_the_middle_stands_for_a_feature_frame():
    assert frames_of_features(16, 4) == [2, 6, 10, 14]
    assert frames_of_features(16, 2) == [4, 12]
    assert frames_of_features(8, 8) == list(range(8))
    assert frames_of_features(6, 2) == [1, 4]


@pytest.fixture(scope='module')
def tiny(root, tmp_path_factory):
    """A small SIFA-Net with random weights, its config's name and its weights' file."""
    torch.manual_seed(0)
    config = load_config('sifa_tiny_motion')
    model = init_recognizer(config, device='cpu')
    with_effect(model)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture(scope='module')
def video(motion_data):
    return sorted((motion_data / 'videos_val').glob('*.mp4'))[0]


def test_inspect_video_shows_the_clip_and_the_scores(tiny, video):
    model, _ = tiny
    names = [f'name {i}' for i in range(8)]
    inspection = inspect_video(model, video, labels=names, checkpoint='a/tiny.pth')
    frames = decord.VideoReader(str(video)).get_batch(range(1, 17)).asnumpy()  # the middle of 18
    assert np.array_equal(inspection.frames, frames)
    about = (inspection.video, inspection.config, inspection.checkpoint)
    assert about == (video.name, 'sifa_tiny_motion.py', 'tiny.pth')
    assert [layer.name for layer in inspection.layers] == [
        'backbone.layer2.1.sifa',
        'backbone.layer3.1.sifa',
    ]
    pipeline = [dict(step) for step in model.cfg.test_pipeline]
    pipeline[1]['num_clips'] = 1
    scores = inference_recognizer(model, str(video), Compose(pipeline)).pred_score
    assert inspection.scores[0] == (names[scores.argmax()], scores.max().item())
    assert len(inspection.scores) == 5

    later = inspect_video(model, video, start=2 / decord.VideoReader(str(video)).get_avg_fps())
    assert np.array_equal(later.frames[:-1], frames[1:])
    assert later.scores[0][0].startswith('class ')


def test_a_clip_starts_at_the_second_that_is_asked_for(tiny, tmp_path):
    path = tmp_path / 'variable.mp4'
    times = [i / 30 for i in range(60)] + [2 + i / 5 for i in range(31)]
    with VideoWriter(path) as writer:
        for i, (start, end) in enumerate(pairwise(times)):
            writer.write(np.full((64, 64, 3), 220 if i < 60 else 40, np.uint8), start, end)
    inspection = inspect_video(tiny[0], path, start=2.5)
    assert inspection.times[0] == pytest.approx(2.4, abs=1e-3)
    np.testing.assert_allclose(np.diff(inspection.times), 0.2, atol=1e-3)
    assert inspection.frames.max() < 60
    assert inspect_video(tiny[0], path, start=0.5).frames.min() > 200


def test_inspect_video_refuses_in_a_sentence(tiny, video, tmp_path):
    model, _ = tiny
    with pytest.raises(ValueError, match=r'must start within the video, which lasts \d.* seconds'):
        inspect_video(model, video, start=1000)
    with pytest.raises(ValueError, match='expected a label for each of 8 classes, got 1'):
        inspect_video(model, video, labels=['left'])
    broken = tmp_path / 'broken.mp4'
    broken.write_text('no video')
    with pytest.raises(UnreadableVideoError, match=r'broken.mp4 cannot be read \(DecordInit: '):
        inspect_video(model, broken)


def test_raw_frames_and_crops_become_one_view_of_a_video(root):
    steps = one_view_pipeline(load_config('sifa_r50_sthv1'))
    assert [step['type'] for step in steps][:3] == ['DecordInit', 'SampleFrames', 'DecordDecode']
    assert steps[1]['num_clips'] == 1
    assert dict(type='CenterCrop', crop_size=256) in steps
    assert not {'ThreeCrop', 'RawFrameDecode'} & {step['type'] for step in steps}


@pytest.fixture(scope='module')
def two_d(video):
    """TSN's recognizer of frames, with SIFA blocks and normalization to BGR."""
    config = Config(
        dict(
            model=dict(
                type='Recognizer2D',
                backbone=dict(
                    type='SIFAPlugin',
                    backbone=dict(type='mmaction.ResNet', depth=18),
                    after=['layer2.1'],
                    num_segments=4,
                ),
                cls_head=dict(type='TSNHead', num_classes=3, in_channels=512, average_clips='prob'),
                data_preprocessor=dict(
                    type='ActionDataPreprocessor',
                    mean=[123.675, 116.28, 103.53],
                    std=[58.395, 57.12, 57.375],
                ),
            ),
            test_pipeline=[
                dict(type='DecordInit'),
                dict(type='SampleFrames', clip_len=1, num_clips=4, test_mode=True),
                dict(type='DecordDecode'),
                dict(type='TenCrop', crop_size=48),
                dict(type='FormatShape', input_format='NCHW'),
                dict(type='PackActionInputs'),
            ],
        )
    )
    model = MODELS.build(config.model)
    model.cfg = config
    return with_effect(model)


def test_segments_of_a_2d_recognizer_are_its_frames(two_d, video):
    inspection = inspect_video(two_d, video)
    indices = [int((i + 0.5) * 18 / 4) for i in range(4)]
    frames = decord.VideoReader(str(video)).get_batch(indices).asnumpy()
    assert np.array_equal(inspection.frames, frames[:, 8:56, 8:56])
    (layer,) = inspection.layers
    assert layer.frames == [0, 1, 2, 3]
    assert layer.weights.shape == (3, 1, 9, 6, 6)


def moving_square(deformed=True):
    """A square of 8 pixels that moves 8 pixels to the right, and a layer that follows it."""
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[0, 16:24, 16:24] = frames[1, 16:24, 24:32] = 255
    offset = np.zeros((1, 9, 2, 8, 8), np.float32)
    offset[:, :, 1] = deformed
    weights = np.zeros((1, 1, 9, 8, 8), np.float32)
    weights[:, :, 4] = 1
    saliency = np.random.default_rng(0).random((1, 8, 8), np.float32)
    layer = LayerAttention('backbone.sifa', 3, 1, [0, 1], offset, weights, saliency)
    return Inspection('a.mp4', 'b.py', 'c.pth', frames, [layer], [('left', 0.5)])


def test_entropy_is_0_for_one_tap_and_1_for_all_alike():
    layer = moving_square().layers[0]  # one tap
    assert not layer.entropy().any()
    layer.weights[:] = -0.3  # their sizes count
    np.testing.assert_allclose(layer.entropy(), 1, rtol=1e-6)
    layer.weights[:] = 0  # none: all alike
    np.testing.assert_allclose(layer.entropy(), 1, rtol=1e-6)
    layer.weights[:, :, [2, 5]] = 0.1
    np.testing.assert_allclose(layer.entropy(), np.log(2) / np.log(9), rtol=1e-6)
    layer.weights[:] = np.random.default_rng(0).normal(1, 1e-4, layer.weights.shape)
    assert layer.entropy().max() <= 1


@pytest.mark.parametrize(('height', 'width'), [(16, 64), (36, 64), (48, 64), (64, 40)])
def test_labels_of_the_rows_do_not_overlap(height, width):
    inspection = moving_square()
    inspection.frames = inspection.frames[:, :height, :width]
    inspection.times = [123.45, 123.95]
    figure = summary_figure(inspection)
    figure_to_image(figure)
    rows = figure.axes[: 4 * 6 : 6]
    boxes = [axes.yaxis.label.get_window_extent() for axes in rows]
    for upper, lower in pairwise(boxes):
        assert lower.y1 < upper.y0
    for axes in figure.axes[1 : 4 * 6 : 6]:  # enlarged views fill their panels
        assert axes.bbox.width == pytest.approx(max(a.bbox.width for a in figure.axes), abs=1)


def test_positions_are_where_something_moves_and_apart():
    inspection = moving_square()
    layer = inspection.layers[0]
    chosen = choose_positions(inspection, layer)
    assert chosen == choose_positions(inspection, layer)
    assert {(0, 2, 2), (0, 2, 3)} & set(chosen)
    places = np.array(chosen)[:, 1:]
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distances[~np.eye(4, dtype=bool)].min() > 8 / 5
    assert len(choose_positions(inspection, layer, count=200)) == 64
    coarse = LayerAttention(
        'x', 3, 1, [0, 1], *(np.zeros((1, 1, 1, 4, 4)),) * 2, np.zeros((1, 4, 4))
    )
    assert finest_layer([coarse, layer, coarse]) is layer


def test_the_figure_shows_samples_where_they_are():
    inspection = moving_square()
    figure = summary_figure(inspection, count=1)
    samples = figure.axes[2]
    position = choose_positions(inspection, inspection.layers[0], 1)[0]
    drawn = samples.collections[-2]
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)  # x, y
    cells = grid + np.array([position.x + 1, position.y])  # one to the right
    np.testing.assert_allclose(drawn.get_offsets(), 8 * cells + 3.5)
    sizes = drawn.get_sizes()
    assert sizes.argmax() == 4
    assert (np.delete(sizes, 4) < sizes[4]).all()
    assert np.array_equal(figure.axes[0].images[0].get_array(), inspection.frames[0])
    assert np.array_equal(samples.images[0].get_array(), inspection.frames[1])
    # The whole field points right: one colour, that of the wheel's right end.
    field = figure.axes[3].images[0].get_array()
    assert np.allclose(field, flow_colours(np.array([[[0.0]], [[1.0]]]), 1)[0, 0])
    assert 'left, 50.0%' in figure.texts[-1].get_text()
    inspection.layers[0].frames = [1, 0]
    behind = summary_figure(inspection, count=1)
    assert [f.axes[2].get_title() for f in (figure, behind)] == [
        'frame t+1: samples',
        'frame t-1: samples',
    ]
    assert np.array_equal(behind.axes[2].images[0].get_array(), inspection.frames[0])
    assert not summary_figure(moving_square(deformed=False)).axes[3].images[0].get_array().min() < 1


@pytest.mark.slow
def test_the_ending_names_the_format_of_the_picture(tmp_path):
    for name, start in (('a.png', b'\x89PNG'), ('a.PDF', b'%PDF'), ('a.svg', b'<?xml')):
        write_summary(moving_square(), tmp_path / name, dpi=40)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r'ends in \.png, \.pdf or \.svg, got '):
        write_summary(moving_square(), tmp_path / 'a.jpg')


def test_colours_tell_directions_and_lengths():
    right, down = (flow_colours(np.array(d).reshape(2, 1, 1), 1)[0, 0] for d in ([0, 1], [1, 0]))
    assert np.allclose(right, [1, 0, 0])
    assert np.allclose(down, [0.5, 1, 0])
    half = flow_colours(np.array([0, 0.5]).reshape(2, 1, 1), 1)[0, 0]
    assert np.allclose(half, [1, 0.5, 0.5])


def test_the_tool_writes_a_page_and_a_picture(tiny, video, tmp_path, run):
    _, weights = tiny
    out = tmp_path / 'new' / 'out'
    done = run(
        *('mmsifa', 'inspect', video, '--config', 'sifa_tiny_motion'),
        *('--checkpoint', weights, '--out', out, '--device', 'cpu', '--start', '0.1'),
    )
    assert f'{out / "index.html"}: ' in done.stdout
    assert 'backbone.layer2.1.sifa: 8 x 8, pairs of frames: 3' in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ['index.html', 'summary.png']
    assert (out / 'index.html').read_text().startswith('<!doctype html>')
    assert cv2.imread(str(out / 'summary.png')).shape[1] == 7.2 * 300


def refused(capfd, *arguments) -> str:
    with pytest.raises(SystemExit) as end:
        main(['inspect', *(str(argument) for argument in arguments)])
    assert end.value.code == 2
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_tool_refuses_in_a_sentence(tiny, video, motion_data, tmp_path, capfd):
    _, weights = tiny
    given = dict(config='sifa_tiny_motion', checkpoint=weights, out=tmp_path / 'out', device='cpu')

    def error(video=video, **changed):
        options = [f'--{key}={value}' for key, value in {**given, **changed}.items()]
        return refused(capfd, video, *options)

    assert error(tmp_path / 'none.mp4').endswith(f'no such file: {tmp_path / "none.mp4"}')
    assert f'{weights} is no folder' in error(out=weights)
    assert '/proc/i/index.html cannot be written' in error(out='/proc/i')
    assert 'there is no layer nope; there are backbone.layer2.1.sifa, ' in error(layer='nope')
    assert 'label_map.txt has 8 names for the 5 classes' in error(
        labels=motion_data / 'label_map.txt', **{'cfg-options': 'model.cls_head.num_classes=5'}
    )
    assert 'videos.txt cannot be read (DecordInit: ' in error(motion_data / 'val_list_videos.txt')
    short = {'cfg-options': 'test_dataloader.dataset.pipeline.1.clip_len=4'}
    assert 'a clip of 4 frames makes a single feature frame' in error(**short)
    assert 'must start within the video' in error(start=-1)
    assert 'must start within the video, which lasts 0.75 seconds, got nan' in error(start='nan')
    assert f'{tmp_path} cannot be read (Is a directory): expected' in error(labels=tmp_path)
    assert 'val_list_videos.txt cannot be read (' in error(
        config=motion_data / 'val_list_videos.txt'
    )
    other = load_config('sifa_tiny_motion')
    other.model.backbone = dict(type='ResNet3dSlowOnly', depth=18, pretrained=None)
    other.model.cls_head.update(type='I3DHead', in_channels=512)
    other.dump(tmp_path / 'slowonly.py')
    torch.save(MODELS.build(other.model).state_dict(), tmp_path / 'slowonly.pth')
    slowonly = dict(config=tmp_path / 'slowonly.py', checkpoint=tmp_path / 'slowonly.pth')
    assert 'ResNet3dSlowOnly has no SIFA layer' in error(**slowonly)
    spoilt = torch.load(weights)
    spoilt['cls_head.fc_cls.bias'][0] = np.nan
    torch.save(spoilt, tmp_path / 'spoilt.pth')
    assert f'gives scores that are NaN or infinite for {video}' in error(
        checkpoint=tmp_path / 'spoilt.pth'
    )
    assert not (tmp_path / 'out').exists()


def test_the_decoder_does_not_print_a_file_that_is_no_video(tiny, tmp_path, capfd):
    (tmp_path / 'page.mp4').write_text('404 Not Found')
    model, _ = tiny
    with pytest.raises(UnreadableVideoError, match=r'page\.mp4 cannot be read \(DecordInit: '):
        inspect_video(model, tmp_path / 'page.mp4')
    assert capfd.readouterr() == ('', '')


def test_a_short_video_is_said_to_repeat_frames(tiny, video, monkeypatch):
    model, _ = tiny
    said = []
    monkeypatch.setattr(
        'mmsifa.apis.inspection.inspected_video.print_log', lambda text, **_: said.append(text)
    )
    inspect_video(model, video)
    assert not said
    inspect_video(model, video, start=10 / decord.VideoReader(str(video)).get_avg_fps())
    assert said == [f'{video} has only 8 frames for a clip of 16 of them: some are repeated']
