"""The report on what recognizers cost: exact counts, real measurements, failures by name."""

import json
import os
import statistics
from pathlib import Path

import matplotlib.image
import mmaction
import pytest
import torch
import yaml
from mmaction.registry import MODELS
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmsifa.__main__ import main
from mmsifa.apis import load_config
from mmsifa.apis.analysis import (
    MeasuredNetwork,
    MeasurementError,
    build_untrained,
    by_part,
    chart,
    clip_of,
    count_multiply_adds,
    count_parameters,
    markdown,
    total,
    views_of,
)
from mmsifa.apis.analysis.complexity import scores
from mmsifa.apis.analysis.measurement import MeasuringProcess, describe
from mmsifa.commands.report import END, START

ROOT = Path(__file__).parents[2]
CONFIGS = Path(mmaction.__file__).parent / '.mim/configs'
TSM = 'recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb'
SLOWONLY = 'recognition/slowonly/slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb'
TPN = 'recognition/tpn/tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb'
TANET = 'recognition/tanet/tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb'
SWIN = 'recognition/swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb'
MVIT = 'recognition/mvit/mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb'
UNIFORMER = 'recognition/uniformer/uniformer-small_imagenet1k-pre_16x4x1_kinetics400-rgb'
POSE = 'skeleton/posec3d/slowonly_r50_8xb16-u48-240e_ntu60-xsub-keypoint'


def count(config, side=None):
    model = build_untrained(config).eval().to('meta')
    return count_multiply_adds(model, clip_of(config, side))


def test_parts_of_the_tiny_network_are_those_counted_by_hand():
    config = load_config('sifa_tiny_motion')
    model, clip = build_untrained(config).eval(), clip_of(config, side=64)
    by_hand = {}

    def multiply(module, inputs, out):
        positions = out.numel() // (out.shape[1] if out.dim() == 4 else out.shape[-1])
        by_hand[module] = module.weight.numel() * positions

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(multiply)
    counts = count_multiply_adds(model, clip)
    parts = by_part(counts)
    # Three pairs of frames: 32 channels at 8 x 8, 64 at 4 x 4; windows of 3 x 3.
    sites = [(32, 64), (64, 16)]
    assert parts['offsets'] == sum(3 * hw * c * 9 * 18 for c, hw in sites)
    assert parts['inter-frame attention'] == sum(3 * hw * c * 9 * 6 for c, hw in sites)
    assert parts['head'] == 2 * 512 * 8
    assert parts['neck'] == 0
    attention = parts['inter-frame attention']
    assert parts['trunk'] == sum(by_hand.values()) - parts['offsets'] - parts['head']
    assert total(counts) == sum(by_hand.values()) + attention
    assert list(counts) == ['conv1', *(f'layer{i}' for i in range(1, 5)), 'layer4_dual', 'head']
    assert counts['conv1'] == {'trunk': 4 * 32 * 32 * 16 * 12 * 49}
    assert counts['layer3']['offsets'] == 3 * 16 * 64 * 9 * 18


@pytest.mark.parametrize(
    ('path', 'side', 'stages'),
    [
        (TSM, 224, ['conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'head']),
        # TPN's and SlowOnly's published figures are those of the test's frames, 256 x 256.
        (SLOWONLY, 256, ['conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'head']),
        (TPN, 256, ['conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'neck', 'head']),
        (SWIN, 224, ['patch_embed', *(f'layers.{i}' for i in range(4)), 'head']),
        (MVIT, 224, ['patch_embed', *(f'blocks.{i}' for i in range(16)), 'head']),
    ],
    ids=['tsm', 'slowonly', 'tpn', 'swin', 'mvit'],
)
def test_counts_of_mmaction2s_recognizers_are_those_it_publishes(path, side, stages):
    counts = count(load_config(f'mmaction::{path}'), side)
    assert list(counts) == stages
    metafile = yaml.safe_load((CONFIGS / path).with_name('metafile.yml').read_text())
    entry = next(model for model in metafile['Models'] if model['Name'] == Path(path).name)
    published = str(entry['Metadata']['FLOPs'])
    published = float(published.removesuffix('G')) * (1e9 if published.endswith('G') else 1)
    assert total(counts) == pytest.approx(published, rel=0.01)  # it counts normalization, too
    assert by_part(counts)['offsets'] == by_part(counts)['inter-frame attention'] == 0


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sifa_swin_s_k400', 'configs/plugin/sifa_tsn_r50_k400.py'])
def test_parts_and_stages_add_up_to_pytorchs_total(name):
    """The plug-in's blocks run within the backbone's submodules and count once."""
    config = load_config(ROOT / name if '/' in name else name)
    model, clip = build_untrained(config).eval().to('meta'), clip_of(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scores(model, torch.empty(1, *clip.shape, device='meta'))
    before = hooks(model)
    counts = count_multiply_adds(model, clip)
    assert 2 * total(counts) == counter.get_total_flops()
    assert sum(by_part(counts).values()) == total(counts)
    op = counter.get_flop_counts()['Global'][torch.ops.mmsifa.inter_frame_attention]
    assert 2 * by_part(counts)['inter-frame attention'] == op > 0
    assert by_part(counts)['offsets'] > 0
    assert hooks(model) == before


def test_fused_attention_counts_the_same_on_a_cpu():
    config = load_config('sifa_swin_s_k400')
    config.model.backbone.arch = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
    config.model.backbone.out_indices = (1,)
    config.model.cls_head.in_channels = 16
    clip = clip_of(config, side=56)
    model = build_untrained(config).eval()
    assert count_multiply_adds(model, clip) == count(config, side=56)


@MODELS.register_module()
class LooksAtValues(nn.Module):
    """A backbone that cannot run without computing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) * float(x.mean())


def test_a_network_that_looks_at_values_is_counted_by_running_it(tmp_path):
    path = tmp_path / 'looks.py'
    path.write_text(
        f"_base_ = '{ROOT}/configs/sifa_tiny_motion.py'\n"
        "model = dict(backbone=dict(_delete_=True, type='LooksAtValues'),\n"
        "    cls_head=dict(_delete_=True, type='I3DHead', num_classes=8, in_channels=4))\n"
    )
    counted = describe(str(path), side=32)
    assert counted['multiply_adds'] == {'conv': {'trunk': 16 * 32 * 32 * 12}, 'head': {'head': 32}}


def test_clips_are_those_of_the_configs():
    expected = {
        TSM: ((8, 3, 224, 224), '8 frames, spread over the video', '1 clip x 10 crops'),
        TANET: ((8, 3, 224, 224), '8 frames, every 8th', '10 clips x 3 crops'),
        SWIN: ((1, 3, 32, 224, 224), '32 frames, every other', '4 clips x 3 crops'),
        UNIFORMER: ((1, 3, 16, 224, 224), '16 frames, every 4th', '4 clips'),  # tests only
    }
    for path, (shape, sampling, views) in expected.items():
        config = load_config(f'mmaction::{path}')
        clip = clip_of(config)
        assert (clip.shape, clip.sampling, views_of(config)) == (shape, sampling, views)
    with pytest.raises(ValueError, match=r'no crop and no resizing .* give it \(--side\)'):
        clip_of(load_config('sifa_tiny_motion'))
    with pytest.raises(ValueError, match='FormatShape to NCHW or NCTHW, got the steps Uniform'):
        clip_of(load_config(f'mmaction::{POSE}'))
    with pytest.raises(ValueError, match='train_pipeline or a test_pipeline'):
        clip_of(Config(dict(model=dict(type='Recognizer3D'))))
    no_sampling = dict(test_pipeline=[dict(type='FormatShape', input_format='NCHW')])
    with pytest.raises(ValueError, match='with a clip_len, got the steps FormatShape'):
        clip_of(Config(no_sampling))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_training_steps_train(dtype):
    config = load_config('sifa_tiny_motion')
    network = MeasuredNetwork(config, clip_of(config, side=32).shape, dtype=dtype, batch_size=2)
    before = {name: weight.clone() for name, weight in network.model.named_parameters()}
    network.forward()
    assert not any(p.grad is not None for p in network.model.parameters())
    assert all(torch.equal(w, before[name]) for name, w in network.model.named_parameters())
    network.training_step()
    changed = [not torch.equal(w, before[name]) for name, w in network.model.named_parameters()]
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.slow
def test_2d_recognizers_and_configs_that_do_not_train_have_training_steps():
    for path in (TSM, UNIFORMER):
        config = load_config(f'mmaction::{path}')
        network = MeasuredNetwork(config, clip_of(config, side=64).shape)
        before = network.model.cls_head.fc_cls.bias.clone()
        network.forward()
        network.training_step()
        assert not torch.equal(network.model.cls_head.fc_cls.bias, before)
        assert network.optimizer_cfg['type'] == 'SGD'


@pytest.mark.slow
def test_a_killed_process_is_a_sentence():
    with (
        MeasuringProcess('cpu') as process,
        pytest.raises(MeasurementError, match='process was killed'),
    ):
        process(os._exit, 9)


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    """A report on a good config, one that fails in training, one in building, one missing."""
    folder = tmp_path_factory.mktemp('report')
    base = f"_base_ = '{ROOT}/configs/sifa_tiny_motion.py'\n"
    loss = "model = dict(cls_head=dict(loss_cls=dict(_delete_=True, type='{}')))\n"
    (folder / 'no_training.py').write_text(base + loss.format('BCELossWithLogits'))
    (folder / 'broken.py').write_text(base + loss.format('NoSuchLoss'))
    page = folder / 'page.md'
    page.write_text(f'# Page\n\n{START}\n{END}\n\nThe end.\n')
    configs = ['nope', folder / 'broken.py', 'tiny=sifa_tiny_motion', folder / 'no_training.py']
    options = ['--out', folder / 'out', '--page', page, '--side', 32, '--rounds', 2]
    options += ['--batch-size', 2]
    with pytest.raises(SystemExit) as exit_:
        main(['report', *(str(part) for part in (*configs, *options))])
    return folder, exit_.value.code


def test_what_fails_is_named_and_the_rest_is_measured(reported):
    folder, status = reported
    failed = ['nope (counting)', 'broken (counting)', 'no_training (training step)']
    assert status == f'not everything was measured: {", ".join(failed)}'  # a message exits with 1
    report = json.loads((folder / 'out/report.json').read_text())
    reasons = {entry['label']: entry['reason'] for entry in report['failed']}
    assert reasons['nope'].startswith('ValueError: no config nope: expected a file')
    assert 'NoSuchLoss is not in the' in reasons['broken']
    assert reasons['no_training'].startswith('ValueError: Target size')
    tiny, no_training = report['models']
    assert tiny['label'] == 'tiny'
    assert tiny['input'] == [1, 3, 16, 32, 32]
    config = load_config('sifa_tiny_motion')
    assert tiny['parameters'] == count_parameters(build_untrained(config))
    assert tiny['multiply_adds'] == count(config, side=32)
    assert tiny['optimizer'] == 'SGD'
    for entry in (tiny['forward'], tiny['training step'], no_training['forward']):
        assert len(entry['seconds_of_rounds']) == 2
        seconds = statistics.median(entry['seconds_of_rounds'])  # of a batch of two clips
        assert entry['clips_per_second'] == pytest.approx(2 / seconds, rel=1e-3)
        assert entry['peak_memory'] > 4 * tiny['parameters']
    assert tiny['training step']['peak_memory'] > tiny['forward']['peak_memory']
    assert 'training step' not in no_training
    environment = report['environment']
    assert environment['torch'] == torch.__version__
    assert environment['threads'] == torch.get_num_threads()
    assert environment['device']


def test_tables_and_chart_show_the_report(reported):
    folder, _ = reported
    report = json.loads((folder / 'out/report.json').read_text())
    tables = markdown(report)
    assert (folder / 'out/report.md').read_text() == f'# Model report\n\n{tables}'
    before, middle, after = (folder / 'page.md').read_text().partition(tables)
    assert (before, after) == (f'# Page\n\n{START}\n\n', f'\n{END}\n\nThe end.\n')
    rows = [line for line in middle.splitlines() if line.startswith('| tiny ')]
    assert rows[0].startswith('| tiny | 16 frames, 32 x 32 | 2 clips | 1.1 | 0.0')
    assert ', layer4_dual 0.' in rows[1]
    assert '| no_training |' in tables
    assert '| failed | failed | SGD |' in tables
    assert '- no_training, training step: ValueError: Target size' in tables
    picture = matplotlib.image.imread(folder / 'out/report.png')
    assert picture.shape[1] == 1500
    assert picture.std() > 0.1
    (folder / 'out/report.md').unlink()
    with pytest.raises(SystemExit):  # what failed has failed
        main(['report', '--out', str(folder / 'out')])
    assert (folder / 'out/report.md').read_text() == f'# Model report\n\n{tables}'
    counted = {**report, 'environment': {**report['environment'], 'rounds': 0}}
    assert 'clips/s' not in markdown(counted)
    assert chart(counted).startswith(b'\x89PNG')


def test_what_cannot_be_done_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / 'page.md').write_text('no markers')
    (tmp_path / 'taken/report.md').mkdir(parents=True)
    for name, content in (('broken', '{"models'), ('other', '[3]')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'report.json').write_text(content)
    for options, message in (
        ((), 'give configs: there is no'),
        (('a', '--rounds', '-1'), '--rounds must be 0 or more, got -1'),
        (('a', '--batch-size', '0'), 'expected a number of at least 1, got 0'),
        (('a', '--page', tmp_path / 'page.md'), 'page.md must have each marker once'),
        (('a', 'b/a.py'), 'each config needs a label of its own'),
        (('a', '--out', tmp_path / 'page.md'), 'page.md is a file'),
        (('a', '--out', tmp_path / 'taken'), 'report.md cannot be written: a folder of this name'),
        (('--out', tmp_path / 'broken'), 'report.json is no report of this tool'),
        (('--out', tmp_path / 'other'), 'report.json is no report of this tool'),
    ):
        out = () if '--out' in options else ('--out', tmp_path / 'none')
        with pytest.raises(SystemExit) as exit_:
            main(['report', *(str(part) for part in (*options, *out))])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            main(['report', 'a', '--device', 'cuda'])
        assert 'PyTorch cannot use cuda here' in capsys.readouterr().err


def test_the_committed_page_and_picture_are_those_of_the_committed_measurements():
    folder = ROOT / 'docs/benchmarks/models_cpu'
    report = json.loads((folder / 'report.json').read_text())
    assert report['failed'] == []
    page = (ROOT / 'docs/models.md').read_text()
    assert '(benchmarks/models_cpu/report.md)' in page
    assert f'# Model report\n\n{markdown(report)}' == (folder / 'report.md').read_text()
    for model in report['models']:
        assert f'={model["config"]}' in page  # the command that measured it
    size = (folder / 'report.png').stat().st_size
    assert 10_000 < size < 300 * 1024
