"""The names of a recognizer's classes.

The files in ``labels/`` have one name a line, in the order of the numbers that MMAction2's list
building gives the classes:

- ``kinetics400.txt``: DeepMind's annotations, as PaddleVideo and decord list them, sorted.
- ``kinetics600.txt``: DeepMind's annotations, as TensorFlow's MoViNet lists them, sorted.
- ``sthv1.txt``: 20BN's ``something-something-v1-labels.csv``, as MMAction2's ``label_map.txt``.
- ``sthv2.txt``: 20BN's ``something-something-v2-labels.json``, as MMAction2's ``label_map.txt``.
"""

from pathlib import Path

from mmengine.config import Config

from mmsifa.fileio.config_files import config_errors
from mmsifa.fileio.text_files import read_lines

SHIPPED = Path(__file__).parent / 'labels'


@config_errors()
def class_names(config: Config, file: str | Path | None = None) -> tuple[list[str], str]:
    """Return a name for each class of a recognizer.

    Args:
        config: Its config.
        file: Names, one a line. Defaults to None: ``label_map.txt`` beside the annotation list of
            the test data, or the names that mmsifa has of the data set in whose folder that list is
            (``kinetics400``, ``kinetics600``, ``sthv1``, ``sthv2``), where there are as many as
            classes; or the numbers of the classes.

    Returns:
        The names, and where they are from.

    Raises:
        ValueError: If the file cannot be read or has not one name for each class.

    Example:
        >>> from mmsifa.apis import class_names, load_config
        >>> names, source = class_names(load_config('sifa_r50_k400'))
        >>> len(names), names[6], source
        (400, 'arm wrestling', 'kinetics400')
    """
    head = config.model.cls_head
    number = head.get('num_classes', head.get('video_classes'))
    if file is not None:
        names = _read(Path(file))
        if len(names) != number:
            raise ValueError(
                f'{file} has {len(names)} names for the {number} classes of the config: expected '
                'one name a line, in the order of the classes'
            )
        return names, str(file)
    loader = config.get('test_dataloader') or {}
    ann_file = loader.get('dataset', {}).get('ann_file')
    ann_file = Path(ann_file if isinstance(ann_file, str) else '')
    beside = ann_file.with_name('label_map.txt') if ann_file.name else None
    candidates = [beside] if beside else []
    candidates += [SHIPPED / f'{folder}.txt' for folder in ann_file.parts]
    for candidate in candidates:
        if candidate.is_file() and len(names := _read(candidate)) == number:
            return names, candidate.stem if candidate.parent == SHIPPED else str(candidate)
    return [str(index) for index in range(number)], 'numbers'


def _read(file: Path) -> list[str]:
    """Return the lines of a file of names; a class without a name has its number."""
    try:
        return [name or str(index) for index, name in enumerate(read_lines(file))]
    except OSError as error:
        raise ValueError(
            f'{file} cannot be read ({error.strerror}): expected a file with one class name a line'
        ) from error
