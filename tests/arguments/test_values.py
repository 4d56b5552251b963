import numpy as np
import pytest
import torch

from secateurs.arguments import values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "float 1.5"),
        (None, "None"),
        (int, "the class int"),
        ("a" * 80, f"str '{'a' * 56}..."),
        (np.zeros((2, 3)), "ndarray of shape (2, 3)"),
        (torch.zeros(4), "Tensor of shape (4,)"),
        ([1, 2], "list of 2"),
        ({}, "dict of 0"),
        (object(), "object"),
    ],
)
def test_a_value_is_shown_by_its_type_and_itself_where_it_is_short(value, text):
    assert values.format_value(value) == text


FITS = {
    "is_truth": ([True, np.bool_(False)], [1, "True", None]),
    "is_whole": ([0, 3, np.int64(3)], [-1, True, 1.0, "1"]),
    "are_whole": ([[1, 2], (3,)], [[], "12", {1: 2}, [1.5], [True], 3, [-1]]),
    "is_number": ([1, 2.5, np.float32(1)], [np.nan, np.inf, True, "1", 1j]),
    "is_labels": (
        [["a", "b"], [1, 2], np.arange(3)],
        [[], "ab", ["a", 1], [1.5], np.eye(2), {1: 2}],
    ),
    "is_path": (["a"], ["", "a\0b", 3, None, b"a"]),
}


@pytest.mark.parametrize("name", FITS)
def test_what_fits_and_what_does_not(name):
    function = getattr(values, name)
    good, bad = FITS[name]
    assert [function(value) for value in good] == [True] * len(good)
    assert [function(value) for value in bad] == [False] * len(bad)


def test_the_least_and_none_are_the_callers():
    assert values.is_whole(5, 5)
    assert not values.is_whole(4, 5)
    assert values.are_whole([None, 2], 1, or_none=True)
    assert not values.are_whole([None, 2], 1)
