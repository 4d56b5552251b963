import math

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.keras.proof.differences import largest_difference, precision_of


def test_the_largest_of_all_outputs_counts():
    received = [np.array([1.0, 2.0]), np.array([[3.0]])]
    expected = [np.array([1.5, -4.0]), np.array([[3.0]])]
    assert largest_difference(received, expected) == (6.0, 4.0)


def test_nan_and_other_shapes_are_infinitely_far():
    assert largest_difference([np.array([np.nan])], [np.array([1.0])]) == (math.inf, 1.0)
    assert largest_difference([np.zeros(2)], [np.zeros(3)])[0] == math.inf


def test_whole_numbers_are_not_compared():
    assert largest_difference([np.array([7])], [np.array([9])]) == (0.0, 0.0)


@pytest.mark.parametrize("coarse", ["float32", "float16", "bfloat16"])
def test_the_tolerance_follows_the_coarsest_dtype(coarse):
    i = keras.Input((3,))
    model = keras.Model(i, L.Dense(2, dtype=coarse)(L.Dense(4, dtype="float32")(i)))
    assert precision_of(model) == coarse
