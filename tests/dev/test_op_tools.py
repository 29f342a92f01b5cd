"""The tools around the op: sanitizers, the benchmark and its committed results."""

import json
import re

from dev import benchmark_op


def test_sanitizers_find_nothing(run, root):
    done = run('bash', 'dev/sanitize_op.sh', '-q')
    (called,) = re.findall(r'^Calling (.*)', done.stdout, flags=re.MULTILINE)
    assert str(root) not in called
    assert '1 passed' in done.stdout
    assert 'ERROR' not in done.stdout


def test_benchmark_times_the_op_and_a_network(run, tmp_path):
    quick = ['--rounds', 1, '--seconds', 0.001, '--no-compile']
    run('python', 'dev/benchmark_op.py', tmp_path / 'op', '--shapes', '16 frames, 7', *quick)
    machine, *records = map(json.loads, (tmp_path / 'op.jsonl').read_text().splitlines())
    assert machine['rounds'] == 1
    assert {r['contestant'] for r in records if r['pass'] == 'forward'} == {
        'cpu',
        'reference',
        'grid_sample',
        '3 x 3 convolution',
        'copy of the inputs',
    }
    assert all(record['ms'] > 0 for record in records)

    config = 'configs/sifa_tiny_motion.py'
    append = ['--append', '--network', config]
    run('python', 'dev/benchmark_op.py', tmp_path / 'op', *append, *quick)
    page = (tmp_path / 'op.md').read_text()
    assert '| SIFA-Net, 16 frames, 7 x 7 |' in page
    assert 'sifa_tiny_motion, forward' in page
    assert 'sifa_tiny_motion, training step' in page


def test_committed_tables_are_those_of_the_committed_measurements(root, tmp_path):
    measured = root / 'docs/benchmarks/op_cpu.jsonl'
    (tmp_path / measured.name).write_bytes(measured.read_bytes())
    benchmark_op.main([str(tmp_path / 'op_cpu'), '--only-table'])
    page = (tmp_path / 'op_cpu.md').read_text()
    assert page == measured.with_suffix('.md').read_text()
