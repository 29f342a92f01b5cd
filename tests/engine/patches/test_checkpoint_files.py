"""Patches of how MMEngine reads and writes checkpoints."""

import numpy as np
import torch
from mmengine.fileio import LocalBackend

from mmsifa.commands import run_tool as run
from mmsifa.engine.patches import checkpoint_files
from mmsifa.fileio.atomic_write import write_atomically


def test_resume_restores_the_history_and_goes_on(build_runner, trained, tmp_path):
    checkpoint, losses = trained
    options = {'resume': str(checkpoint), 'train_cfg.max_epochs': 2}
    runner = build_runner(tmp_path, 'resumed', **options)
    runner.train()
    history, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(history) == 2 * len(losses) == 8
    np.testing.assert_array_equal(history[:4], losses)

    # What is saved again names no stand-in, so that MMEngine reads it without mmsifa.
    saved = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / 'epoch_2.pth')
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in saved
    assert not [name for name in saved if name.startswith('mmsifa')]


def test_the_test_tool_loads_a_checkpoint(tiny, trained, tmp_path, capsys):
    run.run_tool('test', [str(tiny), str(trained[0]), '--work-dir', str(tmp_path)])
    assert 'acc/top1' in capsys.readouterr().out


def test_local_files_are_written_whole(tmp_path):
    LocalBackend().put(b'content', str(tmp_path / 'new folder/file'))
    assert (tmp_path / 'new folder/file').read_bytes() == b'content'


def test_local_writes_are_left_alone_where_they_are_whole(monkeypatch):
    def put(self, obj, filepath):
        write_atomically(filepath, obj)

    monkeypatch.setattr(LocalBackend, 'put', put)
    checkpoint_files.patch_local_writes.__wrapped__()  # past the cache
    assert LocalBackend.put is put
