"""The steps by which a config tests."""

from collections.abc import Sequence


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
