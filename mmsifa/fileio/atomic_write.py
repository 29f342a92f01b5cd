"""Files that are whole or not there."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

UNFINISHED = '.{}.*.part'  # a glob of the names that a file has while it is being written


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file that is at any moment the old one or the new one, also after a crash.

    Until it is complete and on the disk it has a name of its own, ``.NAME.*.part``; whoever is
    killed in between leaves that. Of several writers of a file the last one wins.

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
    content = content.encode() if isinstance(content, str) else content
    with replaced(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def replaced(path: str | Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Write a file as :func:`write_atomically` does, piece by piece.

    Args:
        path: The file; missing folders are made.
        size: How many bytes it shall have, for the error. Defaults to None, unknown.

    Yields:
        The new file, open. It takes its place at the end, unless something was raised.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    try:
        with unfinished_file(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
    except OSError as error:
        failed = 'could not write'
        if size is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            free = shutil.disk_usage(folder).free / 2**20
            failed = f'could not write {size / 2**20:.1f} MiB where {free:.1f} MiB are free'
        raise OSError(
            error.errno,
            f'{error.strerror}: {failed}; what was there before is kept',
            str(path),
        ) from error
    _sync_folder(path.parent)


def check_writable(path: str | Path) -> None:
    """Try whether :func:`write_atomically` can write a file, which it does not do yet.

    Missing folders and a file of another name are made, and deleted.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be written.

    Example:
        >>> folder = Path(getfixture('tmp_path'))
        >>> check_writable(folder / 'new/a.csv')
        >>> list(folder.iterdir())
        []
    """
    path = Path(path).absolute()
    missing: list[Path] = []
    reason = None
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        nearest = path.parents[len(missing)]
        if not nearest.is_dir():
            reason = f'{nearest} is no folder'
        with unfinished_file(path) as file:
            file.write(b'0')
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(path.lstat().st_mode):
                    reason = 'a folder of this name is there'
                elif not path.is_file():
                    reason = 'what is there is no file'
    except OSError as error:
        reason = reason or f'no file can be made in {path.parent} ({error.strerror})'
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not made, or used by another meanwhile
                folder.rmdir()
    if reason:
        raise ValueError(f'{path} cannot be written: {reason}')


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed writers have left in a folder; whoever still writes keeps the file.

    Args:
        folder: The folder; it need not be there.
    """
    for path in Path(folder).glob(UNFINISHED.format('*')):
        with contextlib.suppress(OSError), path.open('rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
            path.unlink()


@contextlib.contextmanager
def unfinished_file(path: str | Path) -> Iterator[BinaryIO]:
    """Make a file that shall take the place of another when it is complete.

    Its name is its own, so writers of the same file do not disturb each other. It is removed in the
    end unless it has been renamed.

    Args:
        path: The file whose place it shall take; missing folders are made.

    Yields:
        The new file beside it, open.
    """
    with open_unfinished(path) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def open_unfinished(path: str | Path) -> BinaryIO:
    """Make a file as :func:`unfinished_file` does, which stays if nobody removes it.

    Args:
        path: The file whose place it shall take; missing folders are made.

    Returns:
        The new file beside it, open.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.with_name(f'.{path.name[:40]}.{secrets.token_hex(4)}.part').open('xb')
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):  # else remove_unfinished came before the lock
            return file
        file.close()


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
