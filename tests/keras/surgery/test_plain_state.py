import functools
from collections import deque

import keras
import numpy as np
import pytest

from secateurs.keras.surgery.plain_state import holds_parts, inside_of, is_alike


class Slotted:
    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number


def adding(number):
    return lambda x: x + number


ALIKE = [
    ([1, (2, {"a": np.arange(3)})], [1, (2, {"a": np.arange(3)})]),
    (np.array([1.0, np.nan]), np.array([1.0, np.nan])),
    (Slotted(3), Slotted(3)),
    (adding(2), adding(2)),
    (functools.partial(max, 3), functools.partial(max, 3)),
    (deque([1, 2]), deque([1, 2])),
    ({1, 2}, {2, 1}),
]
OTHER = [
    ([1, 2], [1, 3]),
    ({"a": 1}, {"b": 1}),
    (np.zeros(2), np.zeros(3)),
    (Slotted(3), Slotted(4)),
    (adding(2), adding(3)),
    (1, 1.0),
    (functools.partial(max, 3), functools.partial(max, 4)),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_values_equal_in_every_part_are_alike(one, other):
    assert is_alike(one, other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_values_that_differ_in_some_part_are_not_alike(one, other):
    assert not is_alike(one, other)


def test_cyclic_references_terminate():
    one, other = [1], [1]
    one.append(one)
    other.append(other)
    assert is_alike(one, other)
    assert not holds_parts(one)


def test_layers_are_found_however_deep():
    assert holds_parts({"a": [(Slotted(keras.layers.Dense(2)),)]})
    assert not holds_parts({"a": [(Slotted(2),)]})
    assert inside_of({"a": 1}) == ["a", 1]
