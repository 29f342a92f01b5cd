"""Files that are whole or not there."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

UNFINISHED = '.{}.part'  # the name of a file while it is being written


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file that is at any moment the old one or the new one, also after a crash.

    Until it is complete and on the disk it is called ``.NAME.part``; whoever is killed in between
    leaves that.

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
    unfinished = path.with_name(UNFINISHED.format(path.name))
    try:
        with unfinished.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except KeyboardInterrupt:
        unfinished.unlink(missing_ok=True)
        raise
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f'{error.strerror}: could not write {len(content) / 2**20:.1f} MiB where '
            f'{free / 2**20:.1f} MiB are free; what was there before is kept',
            str(path),
        ) from error
    _sync_folder(path.parent)


def check_writable(path: str | Path) -> None:
    """Try whether :func:`write_atomically` can make a file, which it does not do yet.

    A file of another name is made, and deleted, in the file's folder, or in the nearest one above
    that is there.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} cannot be written: a folder of this name is there')
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f'{path} cannot be written: {folder} is no folder')
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f'.{path.name}.'):
            pass
    except OSError as error:
        raise ValueError(
            f'{path} cannot be written: no file can be made in {folder} ({error.strerror})'
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise  # some network file systems sync files alone
    finally:
        os.close(descriptor)
