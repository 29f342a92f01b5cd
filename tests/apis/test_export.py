"""Exported networks compute what the recognizer does, without mmsifa."""

import contextlib
import io
import json
import logging
import re
import runpy
import sys

import cv2
import decord
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmaction.apis import init_recognizer
from mmaction.models import Recognizer2D, ResNetTSM
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.dataset import Compose
from torch import nn

import mmsifa
from mmsifa.__main__ import main
from mmsifa.apis import load_config
from mmsifa.apis.export import Exporter, ExportError, check_config
from mmsifa.apis.export.comparison import Sampler, make_checks
from mmsifa.apis.export.formats import AOTInductor
from mmsifa.apis.export.scorer import Preprocess, Scorer, unsupported_reason
from mmsifa.fileio.atomic_write import check_writable, write_atomically
from mmsifa.fileio.video import UnreadableVideoError, VideoReader, VideoWriter
from mmsifa.models import SIFA

NET = dict(
    stage_blocks=(1, 1, 1, 2),
    stage_with_sifa=(False, False, False, True),  # once on each path
    base_channels=4,
    dual_path=True,
)
CROPPED = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=2, test_mode=True),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 40)),
    dict(type='ThreeCrop', crop_size=40),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]


def lively(model: nn.Module) -> nn.Module:
    """Fill what starts at zero, and the statistics, so that every part shows in the scores."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if 'running_var' in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


class OneBlock(nn.Module):
    """The smallest backbone with inter-frame attention, for clips of any length."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 4, (1, 7, 7), (1, 4, 4))
        self.sifa = SIFA(4)

    def init_weights(self):
        pass

    def forward(self, x):
        return self.sifa(self.stem(x).transpose(1, 2)).transpose(1, 2)


def tiny_config(pipeline=CROPPED, **model):
    config = load_config('sifa_tiny_motion')
    config.model.backbone.update(NET)
    config.model.cls_head.in_channels = 128
    for part, settings in model.items():
        config.model[part] = settings
    config.test_dataloader.dataset.pipeline = pipeline
    config.pop('test_pipeline')
    return config


def one_block(pipeline=CROPPED):
    head = dict(type='I3DHead', num_classes=8, in_channels=4, init_std=1, average_clips='prob')
    config = tiny_config(pipeline, backbone=dict(type=OneBlock), cls_head=head)
    return lively(init_recognizer(config, device='cpu'))


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
def exported(root, video, motion_data, tmp_path_factory):
    """An ONNX file of a network with preprocessing, for clips of any length, by the tool."""
    folder = tmp_path_factory.mktemp('onnx')
    torch.manual_seed(0)
    steps = [{**step, 'type': f'mmaction.{step["type"]}'} for step in CROPPED]
    config = tiny_config(steps)
    config.test_dataloader.dataset.ann_file = str(motion_data / 'val_list_videos.txt')
    config.dump(folder / 'config.py')
    recognizer = lively(init_recognizer(load_config(folder / 'config.py'), device='cpu'))
    torch.save(dict(state_dict=recognizer.state_dict()), folder / 'weights.pth')
    files = [str(folder / name) for name in ('config.py', 'weights.pth', 'network.onnx')]
    options = ['--with-preprocess', '--dynamic-frames', '--video', video]
    logger = logging.getLogger('torch.onnx._internal.exporter._registration')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(['export', *files, *options]) == 0
    assert logger.level == logging.NOTSET  # quiet during the export alone
    return recognizer, folder, printed.getvalue()


@pytest.mark.slow
def test_tool_exports_preprocessing_and_clips_of_any_length(exported, video):
    recognizer, folder, printed = exported
    for check in ('wide.mp4', 'a batch of 3', 'clips of twice the length', 'another size'):
        assert check in printed
    assert 'little' not in printed
    session = onnxruntime.InferenceSession(str(folder / 'network.onnx'))
    sampler = Sampler(recognizer)
    for frames in (sampler.video(video), sampler.video(video).swapaxes(2, 3).copy()):
        sample = sampler.sample(frames)
        (scores,) = session.run(None, {'frames': sample.frames.numpy()})
        np.testing.assert_allclose(scores, sample.scores, atol=1e-5)
    other = sampler.sample(np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8))
    assert np.abs(other.scores - scores).max() > 1e-3  # so that a wrong network would show
    assert {node.domain for node in onnx.load(folder / 'network.onnx').graph.node} <= {''}


@pytest.mark.slow
def test_file_tells_how_to_use_it(exported, motion_data):
    _, folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / 'network.onnx'))
    names = (motion_data / 'label_map.txt').read_text().split()
    about = dict(session.get_modelmeta().custom_metadata_map)
    assert json.loads(about.pop('classes')) == names
    assert json.loads(about.pop('test_pipeline')) == json.loads(json.dumps(CROPPED))
    assert about == dict(
        producer=f'mmsifa {mmsifa.__version__}',
        config='config',
        input='frames',
        shape='videos, views, 4*tubelets, height, width, 3',
        dtype='uint8',
        channels='RGB',
        sampling='8 frames, every other',
        clip_len='8',
        frame_interval='2',
        multi_class='False',
        average_clips='prob',
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        'config.py', 'network.onnx', 'weights.pth',
    ]  # fmt: skip


@pytest.mark.slow
def test_example_of_the_page_runs(
    exported, root, video, motion_data, monkeypatch, capsys, tmp_path
):
    recognizer, folder, _ = exported
    text = (root / 'docs/export.md').read_text().split('```python\n')[1].split('```')[0]
    script = folder.parent / 'example.py'
    script.write_text(text)
    one_clip = Compose([{**CROPPED[1], 'num_clips': 1}])
    taken = []
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        'run',
        lambda self, names, inputs: taken.append(inputs['frames']) or run(self, names, inputs),
    )
    for length in (18, 17, 16, 15, 9):  # a clip spans 15 frames
        path = tmp_path / f'{length}.mp4'
        with VideoWriter(path) as writer:
            for i, frame in enumerate(VideoReader(video).get_batch(range(length))):
                writer.write(frame, i / 10, (i + 1) / 10)
        monkeypatch.setattr(sys, 'argv', ['example.py', str(folder / 'network.onnx'), str(path)])
        runpy.run_path(str(script))
        frames = one_clip(dict(total_frames=length, start_index=0))['frame_inds']
        clip = VideoReader(path).get_batch(frames)
        np.testing.assert_array_equal(taken.pop()[0, 0], clip)
    lines = capsys.readouterr().out.splitlines()[-3:]
    scores = Sampler(recognizer).sample(clip[None]).scores[0]
    names = (motion_data / 'label_map.txt').read_text().split()
    for line, best in zip(lines, scores.argsort(descending=True)[:3], strict=True):
        name, score = line.split()
        assert name == names[best]
        assert float(score) == pytest.approx(scores[best].item(), abs=1e-5)


def test_example_of_the_page_needs_no_class_names(root, tmp_path, monkeypatch, video, capsys):
    class Session:
        custom_metadata_map = dict(clip_len='8', frame_interval='1')

        def get_modelmeta(self):
            return self

        def run(self, outputs, inputs):
            return [np.float32([[0.25, 0.0, 0.75]])]

    text = (root / 'docs/export.md').read_text().split('```python\n')[1].split('```')[0]
    (tmp_path / 'example.py').write_text(text)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda path: Session())
    monkeypatch.setattr(sys, 'argv', ['example.py', 'network.onnx', video])
    runpy.run_path(str(tmp_path / 'example.py'))
    assert capsys.readouterr().out.splitlines() == ['2 0.75', '0 0.25', '1 0.0']


def test_package_runs_where_only_torch_is_imported(tmp_path, run, video):
    torch.manual_seed(0)
    model = one_block()
    out = tmp_path / 'network.pt2'
    quick = {'aot_inductor.precompile_headers': False, 'cpp_cache_precompile_headers': False}
    quick['aot_inductor.compile_wrapper_opt_level'] = 'O0'
    with torch._inductor.config.patch(quick):
        result = Exporter(model, 'pt2', dynamic_frames=True).export(out)
    assert set(result.differences) == {
        'generated frames', 'a batch of 3', 'clips of twice the length',
    }  # fmt: skip
    assert result.telling
    sampler = Sampler(model)
    sample = sampler.sample(sampler.generated((50, 60)))
    torch.save(sample._asdict(), tmp_path / 'sample.pt')
    script = (
        'import json, sys, torch; sample = torch.load("sample.pt")\n'
        'network = torch._inductor.aoti_load_package("network.pt2")\n'
        'scores = network(sample["clips"].contiguous())\n'
        'assert "mmsifa" not in sys.modules and "mmaction" not in sys.modules\n'
        'torch.testing.assert_close(scores, sample["scores"], atol=1e-5, rtol=0)\n'
        'about = network.get_metadata()\n'
        'assert about["shape"] == "videos, views, 3, frames, 40, 40"\n'
        'assert [round(x, 2) for x in json.loads(about["mean"])] == [123.68, 116.28, 103.53]\n'
        'assert [round(x, 2) for x in json.loads(about["std"])] == [58.4, 57.12, 57.38]\n'
    )
    run('python', '-c', script, cwd=tmp_path, env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)})


class SmallTSM(ResNetTSM):
    arch_settings = {10: (ResNetTSM.arch_settings[18][0], (1, 1, 1, 1))}


def tsm():
    resnet = dict(type=SmallTSM, depth=10, num_segments=4)
    config = tiny_config(
        [
            CROPPED[0],
            dict(type='SampleFrames', clip_len=1, num_clips=4, test_mode=True),
            *CROPPED[2:5],
            dict(type='FormatShape', input_format='NCHW'),
            CROPPED[6],
        ],
        type='Recognizer2D',
        backbone=dict(type='SIFAPlugin', backbone=resnet, after=['layer1.0'], num_segments=4),
        cls_head=dict(
            type='TSMHead', num_classes=8, in_channels=512, num_segments=4, average_clips='prob'
        ),
    )
    config.model.data_preprocessor.format_shape = 'NCHW'
    return config


def transformer():
    arch = dict(embed_dims=8, depths=(2,), num_heads=(2,))  # not shifted, and shifted
    return tiny_config(
        backbone=dict(type='SIFATransformer', arch=arch, out_indices=(0,), img_size=40),
        cls_head=dict(type='I3DHead', num_classes=8, in_channels=8, average_clips='prob'),
    )


@pytest.mark.slow
@pytest.mark.parametrize('config', [tsm, transformer])
def test_other_recognizers(config, tmp_path, video):
    recognizer = lively(init_recognizer(config(), device='cpu'))
    exporter = Exporter(recognizer, videos=[video])
    result = exporter.export(tmp_path / 'network.onnx')
    assert set(result.differences) == {'wide.mp4', 'a batch of 3'}
    with pytest.raises(ValueError, match=r'clips of one length|fixed number of frames'):
        Exporter(recognizer, dynamic_frames=True)


@pytest.mark.slow
def test_other_parts_between_frames_take_longer_clips(tmp_path):
    config = tiny_config(
        backbone=dict(
            type='SIFANet',
            num_stages=1,
            stage_blocks=(2,),
            stage_with_sifa=(True,),
            base_channels=4,
            between_frames=dict(type='TemporalConv'),
            dual_path=False,
            out_indices=(0,),
        ),
        cls_head=dict(type='I3DHead', num_classes=8, in_channels=16, average_clips='prob'),
    )
    recognizer = lively(init_recognizer(config, device='cpu'))
    result = Exporter(recognizer, dynamic_frames=True).export(tmp_path / 'network.onnx')
    assert 'clips of twice the length' in result.differences
    assert result.telling


@pytest.fixture
def pretend(monkeypatch):
    """Make an exporter take a function for the file that it wrote."""

    def pretend(exporter, function):
        def write(program, path, metadata):
            path.write_bytes(b'a network')

        monkeypatch.setattr(exporter, '_trace', lambda: None)
        monkeypatch.setattr(exporter.format, 'write', write)
        monkeypatch.setattr(exporter.format, 'load', lambda path: function)
        return exporter

    return pretend


def test_difference_above_the_tolerance_leaves_no_file(tmp_path, pretend):
    model = one_block()
    scorer = Scorer(model)
    exporter = pretend(Exporter(model), lambda clips: scorer(clips) * 1.01)
    with pytest.raises(ExportError, match=r'differ by 1\.\de-02 .* the tolerance of 1\.0e-03'):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())


def test_scores_that_are_no_numbers_are_never_close_enough(tmp_path, pretend):
    model = one_block()
    scorer = Scorer(model)
    exporter = pretend(
        Exporter(model), lambda clips: scorer(clips) * (np.nan if len(clips) == 3 else 1)
    )
    with pytest.raises(ExportError, match=r'differ by nan .* on a batch of 3'):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())


def test_a_network_whose_own_scores_are_no_numbers_is_not_exported(tmp_path, pretend, video):
    model = one_block()
    model.cls_head.fc_cls.bias.data[1] = np.nan
    exporter = pretend(Exporter(model, videos=[video]), Scorer(model))
    with pytest.raises(ExportError, match=r'itself gives scores that are NaN .* for wide\.mp4'):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())


class TwoPaths(OneBlock):
    def forward(self, x):
        x = super().forward(x)
        return x, -x[:, :, ::2]


@pytest.mark.slow
@pytest.mark.parametrize(('backbone', 'head'), [(OneBlock, 'I3DHead'), (TwoPaths, 'SIFAHead')])
def test_a_file_scores_each_of_several_classes_by_itself(backbone, head, tmp_path, pretend):
    torch.manual_seed(0)
    head = dict(type=head, num_classes=8, in_channels=4, init_std=1, average_clips='prob')
    config = tiny_config(backbone=dict(type=backbone), cls_head=dict(head, multi_class=True))
    model = lively(init_recognizer(config, device='cpu'))
    clips = torch.randn(1, 2, 3, 8, 40, 40)
    if backbone is OneBlock:  # what the file holds, a part of that of the other network
        pretend(Exporter(model), Scorer(model)).export(tmp_path / 'network.onnx')
        scores = Scorer(model)(clips).detach().numpy()
    else:
        Exporter(model).export(tmp_path / 'network.onnx')
        session = onnxruntime.InferenceSession(tmp_path / 'network.onnx')
        assert session.get_modelmeta().custom_metadata_map['multi_class'] == 'True'
        (scores,) = session.run(None, {'clips': clips.numpy()})
    with torch.no_grad():
        logits = model.cls_head(model.backbone(clips[0]))
    paths = torch.stack(logits if isinstance(logits, tuple) else [logits])
    np.testing.assert_allclose(scores[0], paths.sigmoid().mean((0, 1)), atol=1e-4)


@pytest.mark.parametrize(('scale', 'telling'), [(1e6, False), (0, False), (1, True)])
def test_scores_that_would_hide_a_wrong_network_are_told(scale, telling, tmp_path, pretend):
    torch.manual_seed(0)
    model = one_block()
    model.cls_head.fc_cls.weight.data *= scale
    exporter = pretend(Exporter(model), Scorer(model))
    assert exporter.export(tmp_path / 'network.onnx').telling is telling


def test_errors_of_the_runtime_are_one_sentence(tmp_path, pretend):
    def fail(clips):
        raise RuntimeError('[ONNXRuntimeError] : 2 : INVALID_ARGUMENT\nand more')

    exporter = pretend(Exporter(one_block()), fail)
    expected = r'^onnxruntime cannot run the file: \[ONNXRuntimeError\] : 2 : INVALID_ARGUMENT$'
    with pytest.raises(ExportError, match=expected):
        exporter.export(tmp_path / 'network.onnx')


def test_file_of_a_spread_clip_says_so_and_has_no_interval():
    about = Exporter(init_recognizer(tsm(), device='cpu')).metadata
    assert about['sampling'] == '4 frames, spread over the video'
    assert about['shape'] == 'videos, views, 3, 4, 40, 40'
    assert not {'clip_len', 'frame_interval'} & about.keys()
    uniform = [CROPPED[0], dict(type='UniformSample', clip_len=8, test_mode=True), *CROPPED[2:]]
    about = Exporter(one_block(uniform)).metadata
    assert about['sampling'] == '8 frames, spread over the video'
    assert not {'clip_len', 'frame_interval'} & about.keys()


def test_options_of_the_test_data_set_are_taken():
    config = tiny_config()
    config.test_pipeline = CROPPED
    config.merge_from_dict({'test_dataloader.dataset.pipeline.4.crop_size': 32})
    about = Exporter(init_recognizer(config, device='cpu')).metadata
    assert about['shape'] == 'videos, views, 3, 8, 32, 32'


@TRANSFORMS.register_module()
class OpenFirstHalf(TRANSFORMS.get('DecordInit')):
    """A step of one's own, which opens the first half of a video."""

    def transform(self, results):
        results = super().transform(results)
        results['total_frames'] //= 2
        return results


def test_checks_open_videos_as_the_pipeline_does(video):
    reading = [dict(type='OpenFirstHalf'), *CROPPED[1:3]]
    frames = Sampler(one_block([*reading, *CROPPED[3:]])).video(video)
    expected = Compose(reading)(dict(filename=video, start_index=0, modality='RGB'))['imgs']
    np.testing.assert_array_equal(frames.reshape(-1, *frames.shape[2:]), expected)
    assert not np.array_equal(frames, Sampler(one_block()).video(video))


def test_frames_of_another_size_fit_into_a_crop_without_resizing():
    pipeline = [*CROPPED[:3], dict(type='CenterCrop', crop_size=(60, 40)), *CROPPED[5:]]
    sampler = Sampler(one_block(pipeline))
    checks = make_checks(sampler, [sampler.generated((40, 60))], other_size=True)
    larger = checks['frames of another size']
    assert larger.frames.shape[3:5] == (45, 63)
    assert larger.clips.shape[-2:] == (40, 60)


def test_sizes_that_do_not_fit_are_refused(video, tmp_path):
    uncropped = [*CROPPED[:3], *CROPPED[5:]]
    model = one_block(uncropped)
    assert Exporter(model, videos=[video]).size == (64, 112)
    assert Exporter(model, size=(48, 40)).size == (48, 40)
    with pytest.raises(ValueError, match='crops nothing'):
        Exporter(model)
    with pytest.raises(ValueError, match=r'wide.mp4 gives clips of 64 x 112 pixels.* takes 48 x 4'):
        Exporter(model, videos=[video], size=(48, 40))
    for size in ((0, 0), (-4, 64)):
        with pytest.raises(ValueError, match=f'1 or more, got {size[0]} x {size[1]}'):
            Exporter(model, size=size)
    with pytest.raises(ValueError, match='clips of 40 x 40 pixels from frames of any size'):
        Exporter(one_block(), size=(48, 40))
    resized = [*CROPPED[:4], *CROPPED[5:]]
    assert Exporter(one_block(resized), videos=[video]).size == (40, 70)  # not that of the video


def test_what_cannot_be_exported_is_said_before(model, monkeypatch):
    audio = MODELS.get('RecognizerAudio')
    reason = unsupported_reason(audio, None)
    assert reason == 'only Recognizer2D and Recognizer3D can be exported, not RecognizerAudio'
    assert 'FeatureHead makes its predictions' in unsupported_reason(
        Recognizer2D, MODELS.get('FeatureHead')
    )
    config = tiny_config()
    config.model.cls_head.type = 'mmaction.FeatureHead'
    with pytest.raises(ValueError, match='FeatureHead makes its predictions'):
        check_config(config)
    flipped = [*CROPPED[:4], dict(type='Flip'), *CROPPED[4:]]
    with pytest.raises(ValueError, match='test pipeline has Resize, Flip, ThreeCrop'):
        Preprocess(flipped, model.data_preprocessor)
    monkeypatch.setattr('mmsifa.apis.export.formats.shutil.which', lambda name: None)
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with torch._inductor.config.patch('cpp.cxx', ('no-such-compiler',)):
        assert 'needs a C++ compiler' in AOTInductor().unavailable_reason()


def test_a_file_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    (tmp_path / 'folder.onnx').mkdir()
    (tmp_path / 'file').touch()
    for name, reason in (
        ('folder.onnx', 'a folder of this name is there'),
        ('file/a.onnx', 'file is no folder'),
        ('new/' + 300 * 'a' + '.onnx', 'File name too long'),
        (256 * 'a', 'File name too long'),
        ('/dev/null', 'what is there is no file'),
        ('/proc/a.onnx', r'no file can be made in /proc \('),
    ):
        with pytest.raises(ValueError, match=f'cannot be written: .*{reason}'):
            check_writable(tmp_path / name)
    check_writable(tmp_path / 'new/folder/a.onnx')
    check_writable(tmp_path / (255 * 'a'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder.onnx']


def test_video_that_cannot_be_read_is_named_and_not_printed(tmp_path, capfd):
    path = tmp_path / 'text.mp4'
    path.write_text('no video\n' * 100)
    with pytest.raises(UnreadableVideoError, match=r'text\.mp4 cannot be read \(DecordInit: '):
        Sampler(one_block()).video(str(path))
    assert 'no video' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (['a.pth'], r'a\.pth must end in \.onnx or \.pt2'),
        (['a.pt2', '--format', 'onnx'], r'a\.pt2 must end in \.onnx'),
        (['a.pt2'], r'no\.pth can not be found'),  # so that its format is that of its ending
        (['a.onnx', '--video', 'tests'], 'no such file: tests'),
        (['a.onnx', '--tolerance', 'nan'], 'expected a number from 0 on, got nan'),
        (['a.onnx', '--tolerance=-1'], 'expected a number from 0 on, got -1'),
        (['a.onnx', '--cfg-options', 'model.cls_head.type=FeatureHead'], 'the head FeatureHead'),
        (['a.onnx', '--cfg-options', 'model.type=MMRecognizer3D'], 'tests a MMRecognizer3D'),
    ],
)
def test_wrong_arguments_are_refused_before_the_weights_are_read(arguments, error, root, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['export', 'sifa_tiny_motion', 'no.pth', *arguments])
    assert re.search(error, capsys.readouterr().err)


def test_interrupted_export_says_so_and_leaves_nothing(root, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmsifa.apis.load_recognizer', lambda *args: one_block())
    monkeypatch.setattr(Exporter, '_trace', interrupt)
    assert main(['export', 'sifa_tiny_motion', 'no.pth', str(tmp_path / 'a.onnx')]) == 130
    assert capsys.readouterr().err == 'Interrupted; no file was written\n'
    monkeypatch.setattr('mmsifa.fileio.atomic_write.os.fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'a.onnx', b'half')
    assert not list(tmp_path.iterdir())


def test_a_failure_of_the_exporter_is_one_sentence(tmp_path, monkeypatch, pretend):
    def fail(*args):
        try:
            raise ValueError('cannot view a tensor\nWhile executing ...')
        except ValueError as error:
            raise RuntimeError('Failed to decompose. \x1b[96mThis is step 2/3\x1b[0m') from error

    exporter = pretend(Exporter(one_block()), None)
    monkeypatch.setattr(exporter.format, 'write', fail)
    with pytest.raises(
        ExportError, match=r'^onnxruntime cannot take the network: cannot view a .*r$'
    ):
        exporter.export(tmp_path / 'network.onnx')
    assert not list(tmp_path.iterdir())
