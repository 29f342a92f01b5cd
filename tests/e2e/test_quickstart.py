"""The README's first command, as it is."""

import os
import re


def test_quickstart_trains_tests_and_predicts(tmp_path, run):
    env = {name: value for name, value in os.environ.items() if name != 'OMP_NUM_THREADS'}
    text = run('bash', 'tools/quickstart.sh', tmp_path, env=env).stdout
    assert float(re.search(r'Held-out top-1 accuracy: ([\d.]+)', text)[1]) >= 0.95
    assert re.search(
        r'00000_left\.mp4\n +\d+\.\d %  left *\n', text
    )  # a clip of the held-out split
    for name in ('learning_curve.png', 'confusion_matrix.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    for name in ('epoch_5.pth', 'train.log', 'test.log', 'predictions.pkl'):
        assert (tmp_path / name).stat().st_size > 0
