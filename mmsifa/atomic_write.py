"""Files that are whole or not there."""

import os
import shutil
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file that is at any moment the old one or the new one, also after a crash.

    Args:
        path: The file; missing folders are made.
        content: What it shall hold; text is written as UTF-8.

    Raises:
        OSError: If it cannot be written, such as on a full disk; the old file is kept and nothing
            else is left.

    Example:
        >>> folder = Path(getfixture('tmp_path'))
        >>> write_atomically(folder / 'last_checkpoint', 'epoch_2.pth')
        >>> [file.name for file in folder.iterdir()]
        ['last_checkpoint']
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = _mode_of_new_files(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                error.errno,
                f'could not write {len(content) / 2**20:.1f} MiB ({free / 2**20:.1f} MiB are free '
                f'there): {error.strerror}; files that were there before are kept',
                str(path),
            ) from error
        raise
    _sync_folder(path.parent)


def _mode_of_new_files(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
