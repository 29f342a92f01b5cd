"""Files that are whole or not there."""

import errno
import os
import shutil
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
