"""The steps by which a config tests."""

from collections.abc import Sequence

from mmaction.utils import get_str_type
from mmengine.config import Config

from mmsifa.apis import video_pipeline


def video_steps(config: Config) -> list[dict]:
    """Return the steps by which a config tests, for video files.

    Args:
        config: Config of a recognizer.

    Returns:
        A copy of the steps, with names that have no scope.

    Raises:
        ValueError: If the recognizer takes no RGB videos.

    Example:
        >>> from mmsifa.apis import load_config
        >>> [step['type'] for step in video_steps(load_config('sifa_r50_k400'))][3:5]
        ['Resize', 'ThreeCrop']
    """
    steps, _ = video_pipeline(config)
    return [{**step, 'type': get_str_type(step['type']).rpartition('.')[2]} for step in steps]


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
