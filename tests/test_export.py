"""Exported networks compute what the recognizer does, without mmsifa."""

import importlib.util
import json
import sys

import cv2
import decord
import numpy as np
import onnxruntime
import pytest
import torch
from mmaction.apis import init_recognizer
from mmaction.registry import MODELS
from mmengine.dataset import Compose
from torch import nn

from mmsifa.apis import load_config
from mmsifa.export import Exporter, ExportError, check_writable
from mmsifa.export.clips import Sampler
from mmsifa.export.decomposition import inter_frame_attention
from mmsifa.export.formats import AOTInductor
from mmsifa.export.preprocess import Preprocess
from mmsifa.export.scorer import Scorer, unsupported_reason
from mmsifa.ops import inter_frame_attention as op

NET = dict(stage_blocks=(1, 1, 1, 2), base_channels=4, dual_path=True)
CROPPED = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=8, num_clips=2, test_mode=True),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 40)),
    dict(type='ThreeCrop', crop_size=40),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]


def load_tool(root, name):
    spec = importlib.util.spec_from_file_location(name, root / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lively(model: nn.Module) -> nn.Module:
    """Fill what starts at zero, and the statistics, so that every part shows in the scores."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if 'running_var' in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def tiny_config():
    config = load_config('sifa_tiny_motion')
    config.model.backbone.update(NET)
    config.model.cls_head.in_channels = 128
    config.test_pipeline = CROPPED
    return config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return lively(init_recognizer(tiny_config(), device='cpu'))


@pytest.fixture(scope='session')
def video(motion_data, tmp_path_factory):
    """A motion clip that is not square."""
    source = sorted((motion_data / 'videos_val').glob('*.mp4'))[0]
    path = tmp_path_factory.mktemp('wide') / 'wide.mp4'
    fourcc = cv2.VideoWriter.fourcc(*'FFV1')
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 24, (112, 64))
    for frame in decord.VideoReader(str(source))[:].asnumpy():
        writer.write(cv2.resize(frame, (112, 64)))
    writer.release()
    return str(path)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('shape', 'options'),
    [
        ((2, 2, 6, 5, 7), dict(num_heads=2)),
        ((1, 1, 4, 1, 1), dict(softmax=True)),
        ((2, 1, 4, 6, 3), dict(kernel_size=5, dilation=2, num_heads=2, softmax=True, scale=0.3)),
    ],
    ids=['two-heads', 'one-pixel', 'wide-window'],
)
def test_decomposition_is_the_op(shape, options, dtype):
    n, t, c, h, w = shape
    options = dict(kernel_size=3, dilation=1, num_heads=1, softmax=False) | options
    options.setdefault('scale', options['num_heads'] / c)
    query, value = torch.randn(2, *shape, dtype=dtype)
    offset = 3 * torch.randn(n, t, 2 * options['kernel_size'] ** 2, h, w, dtype=dtype)
    flat = offset.view(-1)
    flat[::11], flat[1::13], flat[2::17], flat[3::19] = torch.nan, torch.inf, -torch.inf, 1e30
    expected = op(query, value, offset, **options)
    keys = ('kernel_size', 'dilation', 'num_heads', 'scale', 'softmax')
    out = inter_frame_attention(query, value, offset, *(options[key] for key in keys))
    atol = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(out, expected, rtol=0, atol=atol)


@pytest.mark.parametrize('size', [(64, 112), (90, 50), (31, 47), (40, 40), (200, 97)])
@pytest.mark.parametrize('crop', [dict(type='ThreeCrop'), dict(type='CenterCrop')])
def test_preprocessing_is_that_of_the_pipeline_bit_by_bit(size, crop, model):
    pipeline = [*CROPPED]
    pipeline[4] = crop | dict(crop_size=40)
    frames = torch.randint(0, 256, (1, 1, 2, *size, 3), dtype=torch.uint8)
    results = dict(imgs=list(frames[0, 0].numpy()), img_shape=size, num_clips=1, clip_len=2)
    clips = Compose(pipeline[3:6])(results | dict(modality='RGB'))['imgs']
    normalize = model.data_preprocessor
    expected = (torch.from_numpy(clips)[None] - normalize.mean) / normalize.std
    assert torch.equal(Preprocess(pipeline, normalize)(frames), expected)


@pytest.fixture(scope='module')
def exported(root, run, video, motion_data, tmp_path_factory):
    """An ONNX file of a network with preprocessing, for clips of any length, by the tool."""
    folder = tmp_path_factory.mktemp('onnx')
    torch.manual_seed(0)
    config = tiny_config()
    recognizer = lively(init_recognizer(config, device='cpu'))
    config.dump(folder / 'config.py')
    torch.save(dict(state_dict=recognizer.state_dict()), folder / 'weights.pth')
    files = [folder / name for name in ('config.py', 'weights.pth', 'network.onnx')]
    options = ['--with-preprocess', '--dynamic-frames', '--video', video]
    labels = ['--labels', motion_data / 'label_map.txt']
    done = run('python', 'tools/export_onnx.py', *files, *options, *labels)
    return recognizer, folder, done.stdout


def test_tool_exports_preprocessing_and_clips_of_any_length(exported, video, motion_data):
    recognizer, folder, printed = exported
    for check in ('wide.mp4', 'a batch of 3', 'clips of twice the length', 'another size'):
        assert check in printed
    session = onnxruntime.InferenceSession(str(folder / 'network.onnx'))
    sampler = Sampler(recognizer)
    for frames in (sampler.video(video), sampler.video(video).swapaxes(2, 3).copy()):
        sample = sampler.sample(frames)
        (scores,) = session.run(None, {'frames': sample.frames.numpy()})
        np.testing.assert_allclose(scores, sample.scores, atol=1e-5)
    other = sampler.sample(np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8))
    assert np.abs(other.scores - scores).max() > 1e-3  # so that a wrong network would show


def test_file_tells_how_to_use_it(exported, motion_data):
    _, folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / 'network.onnx'))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about['classes']) == (motion_data / 'label_map.txt').read_text().split()
    assert about['shape'] == 'videos, views, 4*tubelets, height, width, 3'
    assert (about['dtype'], about['channels'], about['clip_len']) == ('uint8', 'RGB', '8')
    assert json.loads(about['mean']) == pytest.approx([123.675, 116.28, 103.53])
    assert [step['type'] for step in json.loads(about['test_pipeline'])][3] == 'Resize'
    assert sorted(path.name for path in folder.iterdir()) == [
        'config.py', 'network.onnx', 'weights.pth',
    ]  # fmt: skip


def test_example_of_the_page_runs(exported, root, video, motion_data, run):
    _, folder, _ = exported
    text = (root / 'docs/export.md').read_text().split('```python\n')[1].split('```')[0]
    (folder / 'example.py').write_text(text)
    done = run(sys.executable, 'example.py', 'network.onnx', video, cwd=folder)
    sampler = Sampler(exported[0])
    best = sampler.sample(sampler.video(video)).scores.argmax()
    names = (motion_data / 'label_map.txt').read_text().split()
    assert done.stdout.startswith(f'{names[best]} ')
    (folder / 'example.py').unlink()


def test_package_runs_where_only_torch_is_imported(model, tmp_path, run):
    out = tmp_path / 'network.pt2'
    result = Exporter(model, 'pt2').export(out)
    assert set(result.differences) == {'generated frames', 'a batch of 3'}
    sampler = Sampler(model)
    sample = sampler.sample(sampler.generated((50, 60)))
    torch.save(sample._asdict(), tmp_path / 'sample.pt')
    script = (
        'import sys, torch; sample = torch.load("sample.pt")\n'
        'scores = torch._inductor.aoti_load_package("network.pt2")(sample["clips"].contiguous())\n'
        'assert "mmsifa" not in sys.modules and "mmaction" not in sys.modules\n'
        'torch.testing.assert_close(scores, sample["scores"], atol=1e-5, rtol=0)\n'
    )
    run('python', '-c', script, cwd=tmp_path, env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)})


@pytest.mark.parametrize('kind', ['transformer', 'tsm'])
def test_other_recognizers(kind, tmp_path, video):
    config = tiny_config()
    if kind == 'transformer':
        arch = dict(embed_dims=8, depths=(2, 1), num_heads=(1, 2))
        config.model.backbone = dict(
            type='SIFATransformer', arch=arch, out_indices=(1,), img_size=40
        )
        config.model.cls_head = dict(
            type='I3DHead', num_classes=8, in_channels=16, average_clips='prob'
        )
    else:
        config.model.type = 'Recognizer2D'
        resnet = dict(type='mmaction.ResNetTSM', depth=18, num_segments=4)
        config.model.backbone = dict(
            type='SIFAPlugin', backbone=resnet, after=['layer1.0'], num_segments=4
        )
        config.model.cls_head = dict(
            type='TSMHead', num_classes=8, in_channels=512, num_segments=4, average_clips='prob'
        )
        config.model.data_preprocessor.format_shape = 'NCHW'
        config.test_pipeline[1] = dict(type='SampleFrames', clip_len=1, num_clips=4, test_mode=True)
        config.test_pipeline[5] = dict(type='FormatShape', input_format='NCHW')
    recognizer = lively(init_recognizer(config, device='cpu'))
    exporter = Exporter(recognizer, videos=[video])
    result = exporter.export(tmp_path / 'network.onnx')
    assert set(result.differences) == {'wide.mp4', 'a batch of 3'}
    with pytest.raises(ValueError, match=r'clips of one length|fixed number of frames'):
        Exporter(recognizer, dynamic_frames=True)


def test_difference_above_the_tolerance_leaves_no_file(model, tmp_path, monkeypatch):
    exporter = Exporter(model)
    monkeypatch.setattr(exporter, '_trace', lambda: None)
    monkeypatch.setattr(exporter.format, 'write', lambda *args: None)
    scorer = Scorer(model)
    monkeypatch.setattr(exporter.format, 'load', lambda path: lambda x: scorer(x) * 1.01)
    with pytest.raises(ExportError, match=r'differ by 1\.\de-02 .* the tolerance of 1\.0e-04'):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_before(model, tmp_path, root, capsys, monkeypatch):
    audio = MODELS.get('RecognizerAudio')
    reason = unsupported_reason(audio.__new__(audio))
    assert reason == 'only Recognizer2D and Recognizer3D can be exported, not RecognizerAudio'
    head = MODELS.build(dict(type='FeatureHead'))
    model.cls_head, kept = head, model.cls_head
    assert 'FeatureHead makes its predictions' in unsupported_reason(model)
    model.cls_head = kept
    flipped = [*CROPPED[:4], dict(type='Flip'), *CROPPED[4:]]
    with pytest.raises(ValueError, match='test pipeline has Resize, Flip, ThreeCrop'):
        Preprocess(flipped, model.data_preprocessor)
    model.cfg.test_pipeline = [*CROPPED[:3], *CROPPED[5:]]
    with pytest.raises(ValueError, match='crops nothing'):
        Exporter(model)
    with pytest.raises(ValueError, match=r'must end in \.onnx'):
        check_writable(tmp_path / 'network.pth', '.onnx')
    monkeypatch.setattr('mmsifa.export.formats.shutil.which', lambda name: None)
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with torch._inductor.config.patch('cpp.cxx', ('no-such-compiler',)):
        assert 'needs a C++ compiler' in AOTInductor().unavailable_reason()
    tool = load_tool(root, 'export_onnx')
    with pytest.raises(SystemExit):
        tool.main(['sifa_tiny_motion', 'no.pth', str(tmp_path / 'a.onnx')])
    assert 'no.pth' in capsys.readouterr().err


def test_a_failure_of_the_exporter_is_one_sentence(model, tmp_path, monkeypatch):
    def fail(*args):
        try:
            raise ValueError('cannot view a tensor\nWhile executing ...')
        except ValueError as error:
            raise RuntimeError('Failed to decompose. \x1b[96mThis is step 2/3\x1b[0m') from error

    exporter = Exporter(model)
    monkeypatch.setattr(exporter, '_trace', lambda: None)
    monkeypatch.setattr(exporter.format, 'write', fail)
    with pytest.raises(
        ExportError, match=r'^onnxruntime cannot take the network: cannot view a .*r$'
    ):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())
