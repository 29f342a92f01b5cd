"""What a config's pipeline means: the steps of a test, its clips and crops, their size."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from mmaction.utils import get_str_type
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.utils import to_2tuple

from mmsifa.fileio.config_files import config_errors

VIDEO_DECODERS = 'DecordDecode', 'UpstreamDecordDecode', 'PyAVDecode', 'OpenCVDecode', 'PIMSDecode'
CROPS = {'CenterCrop': 1, 'ThreeCrop': 3, 'TenCrop': 10}  # crops that each takes of a frame


@dataclass(frozen=True)
class Clip:
    """The input of one forward pass.

    Args:
        frames: Number of frames T.
        height: Height H of the frames in pixels.
        width: Width W of the frames in pixels.
        sampling: How the frames are taken, in words.
        is_2d: Whether they are laid out one by one, as MMAction2's ``Recognizer2D`` takes them.
    """

    frames: int
    height: int
    width: int
    sampling: str
    is_2d: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the pipeline gives it: (T, 3, H, W) in 2D, else (1, 3, T, H, W)."""
        if self.is_2d:
            return self.frames, 3, self.height, self.width
        return 1, 3, self.frames, self.height, self.width


def clip_of(config: Config, side: int | None = None) -> Clip:
    """Read what a training clip of a config is, or a test's where the config does not train.

    Args:
        config: A config with MMAction2's ``train_pipeline`` or ``test_pipeline``, or one that
            trains on a data set that draws its clips, from arguments ``num_frames`` and ``size``.
        side: Height and width of the frames. Defaults to what the pipeline's last crop or resizing
            makes.

    Returns:
        The clip.

    Raises:
        ValueError: If the config has no pipeline, it is not one of RGB frames, or it does not tell
            the frames' number or size.

    Example:
        >>> from mmsifa.apis import load_config
        >>> clip_of(load_config('sifa_swin_s_k400'))
        Clip(frames=64, height=224, width=224, sampling='64 frames, every other', is_2d=False)
    """
    if drawn := _drawn_clips(config, 'train'):
        drawn_side = side or drawn.size
        return Clip(drawn.num_frames, drawn_side, drawn_side, f'{drawn.num_frames} drawn frames')
    pipeline = config.get('train_pipeline') or config.get('test_pipeline')
    if not pipeline:
        raise ValueError('expected a train_pipeline or a test_pipeline in the config, got neither')
    is_2d = _is_2d(pipeline)
    sampling = sampling_of(pipeline, is_2d)
    size = (side, side) if side else frame_size(pipeline)
    if size is None:
        raise ValueError(
            "the pipeline has no crop and no resizing that tells the frames' size: give it (--side)"
        )
    return Clip(sampling.frames, *size, str(sampling), is_2d)


def _drawn_clips(config: Config, split: str) -> ConfigDict | None:
    """Return the data set of a split if it draws clips of a size that the config names."""
    dataset = config.get(f'{split}_dataloader', {}).get('dataset', {})
    return dataset if {'num_frames', 'size'} <= dataset.keys() else None


def _is_2d(pipeline: Sequence[ConfigDict]) -> bool:
    formats = [step.get('input_format') for step in pipeline if step.type == 'FormatShape']
    if formats not in (['NCHW'], ['NCTHW']):
        raise ValueError(
            'expected a pipeline of frames, with a FormatShape to NCHW or NCTHW, got the steps '
            f'{_steps(pipeline)}'
        )
    return formats == ['NCHW']


def _steps(pipeline: Sequence[dict]) -> str:
    return ', '.join(step['type'] for step in pipeline)


class Sampling(NamedTuple):
    """How the frames of a clip are taken; as text, in words.

    Attributes:
        frames: Number of frames.
        interval: From frame to frame. None where they are spread over the video.
    """

    frames: int
    interval: int | None

    def __str__(self) -> str:
        if self.interval is None:
            return f'{self.frames} frames, spread over the video'
        every = {1: '', 2: ', every other', 3: ', every 3rd'}
        return f'{self.frames} frames{every.get(self.interval, f", every {self.interval}th")}'


def sampling_of(pipeline: Sequence[dict], is_2d: bool) -> Sampling:
    """Read how a pipeline takes the frames of a clip.

    Args:
        pipeline: The steps.
        is_2d: Whether its clips are frames one by one, as MMAction2's ``Recognizer2D`` takes them.

    Returns:
        The frames' number and interval.

    Raises:
        ValueError: If no step samples frames.

    Example:
        >>> str(sampling_of([dict(type='SampleFrames', clip_len=8, frame_interval=4)], False))
        '8 frames, every 4th'
    """
    step = _sampler(pipeline)
    frames, interval = step['clip_len'], step.get('frame_interval', 1)
    if is_2d:
        frames *= step.get('num_clips', 1)
        interval = step.get('sample_range', 64) // frames  # of a DenseSampleFrames
    if step['type'].startswith('Uniform') or (is_2d and step['type'] != 'DenseSampleFrames'):
        interval = None
    return Sampling(frames, interval)


def _sampler(pipeline: Sequence[dict]) -> dict:
    for step in pipeline:
        if 'clip_len' in step:
            return step
    raise ValueError(
        f'expected a step that samples clips, with a clip_len, got the steps {_steps(pipeline)}'
    )


def frame_size(pipeline: Sequence[dict]) -> tuple[int, int] | None:
    """Return height and width of the frames that a pipeline makes, if it fixes them.

    Args:
        pipeline: The steps.

    Returns:
        Height and width in pixels, as its last crop or resizing tells them; None if none does.

    Example:
        >>> from mmsifa.apis import load_config
        >>> frame_size(load_config('sifa_r50_k400').test_pipeline)
        (256, 256)
    """
    for step in reversed(pipeline):
        if step['type'] == 'Resize' and not step.get('keep_ratio', True):
            width, height = to_2tuple(step['scale'])
            return height, width
        for name in ('crop_size', 'input_size', 'size'):
            if 'Crop' in step['type'] and name in step:
                width, height = to_2tuple(step[name])
                return height, width
    return None


def views_of(config: Config) -> str:
    """Say how many clips and crops of a video a test averages.

    Args:
        config: A config, with a ``test_pipeline`` unless it only trains.

    Returns:
        The views in words, ``'none'`` without a test.

    Example:
        >>> from mmsifa.apis import load_config
        >>> views_of(load_config('sifa_r50_k400'))
        '20 clips x 3 crops'
    """
    pipeline = config.get('test_pipeline')
    if not pipeline:
        return 'none'
    if _drawn_clips(config, 'test'):
        return '1 clip'
    step = _sampler(pipeline)
    if not _is_2d(pipeline):
        clips = step.get('num_clips', 1)
    else:
        clips = step.get('num_sample_positions', 10) if step['type'] == 'DenseSampleFrames' else 1
    clips *= 2 if step.get('twice_sample') else 1
    crops = prod(CROPS.get(step.type, 1) for step in pipeline)
    return f'{clips} clip{"s" if clips > 1 else ""}' + (f' x {crops} crops' if crops > 1 else '')


@config_errors()
def video_pipeline(config: Config, windows: bool = False) -> tuple[list[dict], str | None]:
    """Return the steps by which a config tests, for video files.

    They read by :class:`~mmsifa.fileio.video.VideoReader`, whatever the config decodes by.

    Args:
        config: Config of a recognizer.
        windows: Whether windows of a video are to be scored, which needs ``DecordInit``. Defaults
            to False.

    Returns:
        The steps, with names that MMAction2's need no scope in, and one sentence on what was
        changed, if anything was.

    Raises:
        ValueError: If the recognizer takes no RGB videos or gives no probabilities of classes, or
            a step cannot be built, or windows are scored and ``DecordInit`` does not open videos.
    """
    loader = config.get('test_dataloader')
    dataset = loader.dataset if loader else Config(dict(pipeline=config.get('test_pipeline')))
    steps = [
        {**step, 'type': get_str_type(step['type']).removeprefix('mmaction.')}
        for step in dataset.get('pipeline') or config.get('test_pipeline') or []
    ]
    if not steps:
        raise ValueError(
            'the config has no test pipeline: expected test_dataloader, as for testing'
        )
    types = [step['type'] for step in steps]
    decoders = [i for i, kind in enumerate(types) if kind in (*VIDEO_DECODERS, 'RawFrameDecode')]
    flow = dataset.get('modality', 'RGB') != 'RGB'
    if len(decoders) != 1 or flow or 'MMRecognizer' in str(config.model.type):
        raise ValueError(
            f'the config tests a {config.model.type} on '
            f'{"optical flow" if flow else "data of steps " + ", ".join(types[:3])}: expected a '
            'recognizer of RGB video frames'
        )
    head = config.model.get('cls_head')
    if head is None:
        raise ValueError(
            f'the config is of a {config.model.type} without a cls_head: expected a recognizer, '
            'which scores classes'
        )
    if head.get('average_clips') != 'prob':
        raise ValueError(
            f'the scores of a head with average_clips={head.get("average_clips")!r} are no '
            "probabilities: set model.cls_head.average_clips='prob'"
        )
    decode = decoders[0]
    raw = types[decode] == 'RawFrameDecode'
    inits = [step for step, kind in zip(steps, types, strict=True) if kind.endswith('Init')]
    if types[decode] != 'DecordDecode' and (raw or inits):
        steps[decode] = dict(type='DecordDecode')
        steps = [dict(type='DecordInit'), *(step for step in steps if step not in inits)]
    if windows and 'DecordInit' not in [step['type'] for step in steps]:
        raise ValueError(
            'windows of a video can be scored if DecordInit opens it, got '
            f'{steps[0]["type"]} in the test pipeline: leave sliding out'
        )
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmaction')):
        Compose(steps)  # refuses what cannot be built
    note = 'The config tests on raw frames; here they are read from the videos' if raw else None
    return steps, note


@config_errors()
def one_view_pipeline(config: Config) -> list[dict]:
    """Make a config's test pipeline one of a single clip and crop of a video file.

    Args:
        config: Config of a recognizer.

    Returns:
        The changed copy of its pipeline, which reads video files.

    Raises:
        ValueError: If the recognizer takes no RGB videos.
    """
    steps, _ = video_pipeline(config)
    for step in steps:
        if step['type'] in CROPS:
            step['type'] = 'CenterCrop'
        if step['type'] == 'DenseSampleFrames':
            step['num_sample_positions'] = 1
        step.pop('twice_sample', None)
        if 'num_clips' in step and step.get('clip_len', 1) > 1:
            step['num_clips'] = 1  # clips of one frame are a 2D recognizer's segments
    return steps


def frame_steps(pipeline: Sequence[dict]) -> list[dict]:
    """Return the steps of a test between the decoding and the formatting of frames.

    Args:
        pipeline: All steps.

    Returns:
        The steps in between.

    Raises:
        ValueError: If the pipeline decodes or formats no frames.
    """
    names = [step['type'] for step in pipeline]
    decoders = [i for i, name in enumerate(names) if name.endswith('Decode')]
    if not decoders or 'FormatShape' not in names:
        raise ValueError(
            f'the test pipeline decodes no RGB frames into clips, its steps are {", ".join(names)}'
        )
    return list(pipeline[decoders[-1] + 1 : names.index('FormatShape')])


def frame_span(pipeline: Sequence[dict]) -> int | None:
    """Return from how many consecutive frames a pipeline takes a clip.

    Args:
        pipeline: The steps.

    Returns:
        The number of frames; None where they are taken from the whole video.
    """
    for step in pipeline:
        if step['type'] == 'SampleFrames' and step['clip_len'] > 1:
            return (step['clip_len'] - 1) * step.get('frame_interval', 1) + 1
    return None
