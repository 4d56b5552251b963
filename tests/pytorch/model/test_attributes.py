"""Integers that modules keep are found and set wherever they are kept."""

from types import SimpleNamespace

import pytest
from torch import nn

from secateurs.pytorch.model.attributes import (
    is_whole_number,
    numbers_in,
    read,
    read_number,
    write_,
)


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 4
        self.shape = (2, 8)
        self.sizes = {"width": 16, "deep": [3, 5]}
        self.config = SimpleNamespace(hidden=32)
        self.flag, self.rate = True, 0.5


def keeper():
    return nn.Sequential(Keeper())


def test_every_number_is_found_and_read_where_it_was_found():
    model = keeper()
    found = {place: number for number, place in ((n, p) for p, n in numbers_in("0", model[0]))}
    assert sorted(found.values()) == [2, 3, 4, 5, 8, 16, 32]
    for place, number in found.items():
        assert read(model, place) == read_number(model, place) == number


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8, 16, 32])
def test_a_number_is_written_back_there_and_nowhere_else(number):
    model = keeper()
    places = dict(numbers_in("0", model[0]))
    (place,) = [one for one, known in places.items() if known == number]
    write_(model, place, 77)
    assert dict(numbers_in("0", model[0])) == {**places, place: 77}


def test_booleans_and_floats_are_not_integers():
    assert [is_whole_number(one) for one in (3, True, 0.5, "3")] == [True, False, False, False]
