"""Checks of arguments: what they take, and what they say of the rest."""

import math

import numpy as np
import pytest
import torch

from mmsifa.ops import inter_frame_attention
from mmsifa.ops.arguments import check_integer_lists, check_integers, check_out_indices


def test_integers_of_numpy_are_integers():
    three = np.int64(3)
    check_integers(kernel_size=three)
    frames, offset = torch.rand(1, 3, 4, 5, 5), torch.zeros(1, 2, 18, 5, 5)
    inter_frame_attention(frames[:, :-1], frames[:, 1:], offset, kernel_size=three)


@pytest.mark.parametrize('value', [0, -1, True, 2.0, '3', None, math.nan], ids=str)
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(ValueError, match=f'channels must be a positive integer, got {value!r}'):
        check_integers(channels=value)
    with pytest.raises(ValueError, match=r'sides must be 2 positive integers, got \(1, '):
        check_integer_lists(2, sides=(1, value))


def test_stages_ascend():
    check_out_indices((0, 2), 3)
    with pytest.raises(ValueError, match=r'out_indices must ascend.*got \(2, 0\)'):
        check_out_indices((2, 0), 3)
    with pytest.raises(ValueError, match=r'out_indices must be stages out of 0 to 2, got \(3,\)'):
        check_out_indices((3,), 3)
