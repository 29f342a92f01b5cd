"""Trainings that are killed and disks that are full: real processes, a real file system."""

import errno
import fcntl
import json
import os
import signal
import stat
import sys

import pytest
import torch

from dev.kill_training import TRAIN, small_training
from mmsifa.fileio import atomic_write
from mmsifa.fileio.atomic_write import (
    UNFINISHED,
    remove_unfinished,
    unfinished_file,
    write_atomically,
)

KILLED_HALF_WAY = """
import os, signal, sys
import mmsifa
from mmengine.fileio import LocalBackend

def fsync(descriptor):
    os.ftruncate(descriptor, 7)
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = fsync
LocalBackend().put(b'the new content', sys.argv[1])
"""


def test_whoever_is_killed_while_writing_leaves_the_old_file(run, forked, tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'the old content')
    done = run('env', 'python', '-c', KILLED_HALF_WAY, path, check=False, env=forked)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b'the old content'
    (unfinished,) = tmp_path.glob(UNFINISHED.format('epoch_1.pth'))
    assert unfinished.read_bytes() == b'the new'
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ['epoch_1.pth']


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_text('old')
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append(path.read_text()))
    write_atomically(path, 'new')
    assert synced == ['old', 'new']  # the content, then the folder


def test_two_writers_of_a_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    path = tmp_path / 'results.json'

    def fsync(descriptor):
        monkeypatch.undo()
        write_atomically(path, 'of the other')  # between this one's writing and renaming
        assert path.read_text() == 'of the other'

    monkeypatch.setattr(os, 'fsync', fsync)
    write_atomically(path, 'of this one')
    assert path.read_text() == 'of this one'
    assert os.listdir(tmp_path) == ['results.json']


def test_a_file_that_is_being_written_is_not_removed(tmp_path):
    with unfinished_file(tmp_path / 'epoch_1.pth') as file:
        file.write(b'whole')
        remove_unfinished(tmp_path)
        os.replace(file.name, tmp_path / 'epoch_1.pth')
    assert (tmp_path / 'epoch_1.pth').read_bytes() == b'whole'


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, locked = fcntl.flock, []

    def remove_and_lock(file, operation):
        if not locked:
            locked.append(operation)
            remove_unfinished(tmp_path)  # takes the lock first and finds the writer dead
        lock(file, operation)

    monkeypatch.setattr(fcntl, 'flock', remove_and_lock)
    write_atomically(tmp_path / 'a', 'whole')
    assert (tmp_path / 'a').read_text() == 'whole'
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / 'file'
    path.mkdir()
    with pytest.raises(OSError, match='Is a directory: could not write; what was there before'):
        write_atomically(path, b'content')
    assert os.listdir(tmp_path) == ['file']


def test_a_full_disk_keeps_the_checkpoint_before(run, motion_data, tmp_path):
    """A real file system, of 3.5 MiB: the first checkpoint of 2.2 MB fits, the second does not."""
    script = """
    mount -t tmpfs -o size=3584k tmpfs "$0"
    "$@" >"$0/../log" 2>&1
    echo $? >"$0/../code"
    ls -A "$0" >"$0/../files"
    cp "$0"/*.pth "$0"/last_checkpoint "$0/.."
    """
    disk = tmp_path / 'disk'
    disk.mkdir()
    command = [sys.executable, '-m', 'mmsifa', *TRAIN]
    command += ['--work-dir', disk, '--cfg-options', *small_training(motion_data)]
    run('unshare', '--map-root-user', '--mount', 'sh', '-c', script, disk, *command)
    assert (tmp_path / 'code').read_text() == '1\n'
    log = (tmp_path / 'log').read_text()
    said = next(line for line in log.splitlines() if 'No space left on device: could not' in line)
    assert 'could not write 2.1 MiB where' in said
    assert 'epoch_2.pth' in said
    files = (tmp_path / 'files').read_text().split()
    assert {name for name in files if 'pth' in name} == {'epoch_1.pth'}
    assert (tmp_path / 'last_checkpoint').read_text() == f'{disk}/epoch_1.pth'
    assert torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['meta']['epoch'] == 1


def test_a_file_system_that_takes_nothing_is_refused_before(run, tmp_path):
    """Real ones, one full, one read-only; root may write to either as far as permissions go."""
    script = """
    mount -t tmpfs -o size=8k tmpfs full && head -c 8192 /dev/zero >full/zeros
    mount -t tmpfs -o ro tmpfs shut
    "$0" -c "$1" "$2"
    ls -A full
    """
    check = """if True:
    import runpy, sys
    check_writable = runpy.run_path(sys.argv[1])['check_writable']  # without the package
    for folder in 'full', 'shut':
        try:
            check_writable(f'{folder}/new.csv')
        except ValueError as error:
            print(error)
    """
    for name in ('full', 'shut'):
        (tmp_path / name).mkdir()
    call = ('unshare', '--map-root-user', '--mount', 'sh', '-c', script, sys.executable, check)
    full, shut, files = run(*call, atomic_write.__file__, cwd=tmp_path).stdout.splitlines()
    assert full.endswith('full/new.csv cannot be written: no file can be made in '
                         f'{tmp_path}/full (No space left on device)')  # fmt: skip
    assert shut.endswith('(Read-only file system)')
    assert files == 'zeros'


def test_a_training_that_is_killed_again_and_again_ends_like_a_whole_one(run, tmp_path):
    out = tmp_path / 'kills.json'
    run('python', 'dev/kill_training.py', out, '--kills', 2, '--start', 'load_from')
    found = json.loads(out.read_text())
    assert found['kills'] == 2
    assert found['kills_while_writing'] >= 1
    assert found['runs_compared'] >= 1
    assert found['values_that_differ'] == 0


def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch):
    """As some network file systems; a folder that fails to be synced is another matter."""

    def fsync_as(code):
        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(os, 'fsync', fsync_as(errno.EINVAL))
    write_atomically(tmp_path / 'file', 'new')
    assert (tmp_path / 'file').read_text() == 'new'
    monkeypatch.setattr(os, 'fsync', fsync_as(errno.EIO))
    with pytest.raises(OSError, match='Input/output error'):
        write_atomically(tmp_path / 'file', 'newer')
