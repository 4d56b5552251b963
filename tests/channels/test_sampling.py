import numpy as np
import pytest

from secateurs.channels.sampling import flat_places_in, places_in


def test_samples_cover_the_whole_tensor():
    places = places_in((8, 9, 10), 64)
    assert [len(at) for at in places] == [64] * 3
    assert [len(np.unique(at)) for at in places] == [8, 9, 10]


def test_of_few_values_all_are_taken_once():
    places = places_in((2, 3, 4), 64)
    assert sorted(zip(*places, strict=True)) == sorted(np.ndindex(2, 3, 4))


def test_the_positions_depend_on_the_shape_only():
    first, again = places_in((50, 40), 64), places_in((50, 40), 64)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("count", [1, 64])
def test_a_scalar_has_one_place_and_no_axis(count):
    assert places_in((), count) == ()


@pytest.mark.parametrize("shape", [(), (1,), (4, 5), (8, 9, 10), (2, 30, 7, 7)])
def test_flat_places_are_the_same_places(shape):
    flat = flat_places_in(shape, 64)
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    assert values[places_in(shape, 64)].ravel().tolist() == flat.tolist()
