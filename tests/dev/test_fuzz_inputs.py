"""Random wrong input; ``dev/fuzz_inputs.py`` gives much more of the same."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / 'dev'))
import fuzz_inputs

inputs = st.randoms(use_true_random=False)


def some(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


@some(60)
@given(inputs)
def test_weights_that_do_not_fit_are_refused_and_none_is_dropped_in_silence(rng):
    fuzz_inputs.fuzz_weights(rng)


@some(400)
@given(inputs)
def test_changed_files_are_refused_or_hold_the_same(rng):
    fuzz_inputs.fuzz_bytes(rng)


@some(200)
@given(inputs)
def test_wrong_arguments_of_the_op_are_refused_or_computed_right(rng):
    fuzz_inputs.fuzz_op_arguments(rng)


@pytest.mark.parametrize('kind', ['zip', 'pickle', 'legacy'])
def test_unchanged_files_hold_the_same(kind, monkeypatch):
    monkeypatch.setattr(fuzz_inputs, 'mutate', lambda data, rng: data)
    monkeypatch.setattr(fuzz_inputs.random.Random, 'choice', lambda self, options: kind)
    fuzz_inputs.fuzz_bytes(random.Random(0))
    data, content = fuzz_inputs.real_files()[kind == 'legacy']
    assert fuzz_inputs.same(fuzz_inputs.load(data), content)


def test_the_watch_sees_commands_and_files(tmp_path):
    with pytest.raises(AssertionError, match=r"it did \['os.system'\]"):
        fuzz_inputs.watch(lambda: os.system('true'))
    with pytest.raises(AssertionError, match=r"it did \['open'\]"):
        fuzz_inputs.watch(lambda: open(tmp_path / 'file', 'w').close())


@pytest.mark.parametrize('change', ['drop', 'complex'])
def test_a_weight_that_is_dropped_in_silence_is_a_fault(change, monkeypatch):
    kind, net, weights, _ = fuzz_inputs.networks()[2]
    weights = {'conv1.weight': weights['conv1.weight']}
    silent = (kind, net, weights, lambda net, path: None)
    monkeypatch.setattr(fuzz_inputs, 'networks', lambda: [silent])
    monkeypatch.setattr(fuzz_inputs, 'CHANGES', {change: fuzz_inputs.CHANGES[change]})
    with pytest.raises(AssertionError, match=f'2D ResNet, {change} conv1.weight: accepted'):
        fuzz_inputs.fuzz_weights(random.Random(0))


def test_faults_are_written_and_end_the_tool_with_1(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'faults.json'
    options = ['--inputs', '2', '--seed', '5', '--json', str(out)]

    def fail(rng):
        raise KeyError('odd')

    assert fuzz_inputs.main(['op', *options]) == 0
    assert json.loads(out.read_text())['faults'] == []
    monkeypatch.setitem(fuzz_inputs.KINDS, 'op', fail)
    assert fuzz_inputs.main(['op', *options]) == 1
    result = json.loads(out.read_text())
    assert result['inputs'] == 2
    assert result['faults'][0] == dict(seed=5, fault="KeyError: 'odd'")
    assert "--seed 5 --inputs 1: KeyError: 'odd'" in capsys.readouterr().out
