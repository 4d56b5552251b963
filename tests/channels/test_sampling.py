import math

import numpy as np
import pytest

from secateurs.channels.sampling import MOST_SAMPLES, flat_places_in, places_in


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 11008),
        (8, 9, 10),
        (1, 32, 112, 112),
        (2, 960, 2, 2),
        (1, 4, 4, 1280),
        (3, 197, 192),
        (70, 1),
    ],
)
def test_every_index_of_every_axis_is_sampled(shape):
    places = places_in(shape, 64)
    assert [len(at) for at in places] == [max(64, *shape)] * len(shape)
    assert [len(np.unique(at)) for at in places] == list(shape)


def test_axes_of_one_length_are_out_of_step():
    flat = flat_places_in((1, 64, 8, 8), 64)
    assert len(np.unique(flat)) == 64
    _, channel, row, column = places_in((1, 512, 7, 7), 64)
    assert len(set(zip(row, column, strict=True))) == 49  # every place of the images
    assert len(set(zip(channel % 7, row, column, strict=True))) > 200
    three = places_in((7, 7, 7, 900), 64)[:3]
    assert len(set(zip(*three, strict=True))) > 250


def test_of_a_long_axis_many_indices_are_sampled():
    long, short = places_in((50_000, 3), 64)
    assert len(long) == MOST_SAMPLES
    assert (np.diff(np.sort(long)) <= 4).all()  # evenly spaced, each once
    assert long.max() > 49_990
    assert len(np.unique(short)) == 3


def test_of_few_values_all_are_taken_once():
    places = places_in((2, 3, 4), 64)
    assert sorted(zip(*places, strict=True)) == sorted(np.ndindex(2, 3, 4))


def test_the_positions_depend_on_the_shape_only():
    first, again = places_in((50, 40), 64), places_in((50, 40), 64)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("count", [1, 64])
def test_a_scalar_has_one_place_and_no_axis(count):
    assert places_in((), count) == ()
    assert flat_places_in((), count).tolist() == [0]


@pytest.mark.parametrize(
    "shape", [(), (1,), (4, 5), (8, 9, 10), (2, 30, 7, 7), (3000,), (1, 5, 70)]
)
def test_flat_places_are_the_same_places(shape):
    flat = flat_places_in(shape, 64)
    values = np.arange(math.prod(shape)).reshape(shape)
    assert values[places_in(shape, 64)].ravel().tolist() == flat.tolist()
