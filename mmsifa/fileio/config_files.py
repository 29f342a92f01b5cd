"""Where the configs of a package are."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


def config_folder(package: str = 'mmsifa') -> Path:
    """Return the folder of a package's configs.

    Args:
        package: Name of the package. Defaults to mmsifa.

    Returns:
        The folder where MIM puts them; of a checkout that is on the path and not installed, the
        folder ``configs`` beside the package.

    Raises:
        ValueError: If there is no such package.

    Example:
        >>> config_folder().joinpath('sifa_r50_k400.py').is_file()
        True
    """
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ValueError(f'no config of {package}: that package is not installed')
    root = Path(spec.origin).parent
    installed = root / '.mim' / 'configs'
    return installed if installed.is_dir() else root.parent / 'configs'


@contextmanager
def config_errors() -> Iterator[None]:
    """Say in words that what a config holds cannot be read, or nothing be built from it.

    Raises:
        ValueError: In place of what MMEngine and MMAction2 raise.

    Example:
        >>> with config_errors():
        ...     {}['type']
        Traceback (most recent call last):
        ValueError: the config cannot be used (KeyError: 'type')
    """
    try:
        yield
    except (AssertionError, AttributeError, ImportError, LookupError, TypeError) as error:
        raise ValueError(f'the config cannot be used ({type(error).__name__}: {error})') from error
