import keras
import pytest
from keras import layers as L

from secateurs.channels.cut import SizeChange
from secateurs.errors import CutError
from secateurs.keras.sizes.layer_sizes import by_owner, with_positions, with_sizes


def change(owner, attribute, before, after, position=None):
    return SizeChange(owner, attribute, position, before, after)


def test_changes_are_sorted_by_their_owner():
    one, two, three = (change(owner, "units", 4, 3) for owner in ("a", "b", "a"))
    assert by_owner([one, two, three]) == {"a": [one, three], "b": [two]}


def test_a_configuration_gets_new_sizes_and_the_layer_is_unchanged():
    layer = L.Dense(4, name="a")
    config = layer.get_config()
    found = with_sizes(config, "a", {"a": [change("a", "units", 4, 3)]}, layer)
    assert (found["units"], config["units"], layer.units) == (3, 4, 4)
    assert {**found, "units": 4} == config


def test_sizes_of_a_sublayer_are_changed():
    layer = L.TimeDistributed(L.Dense(4, name="d"), name="t")
    layer.build((None, 2, 3))
    changes = {"t.d": [change("t.d", "units", 4, 1)]}
    found = with_sizes(layer.get_config(), "t", changes, layer)
    assert found["layer"]["config"]["units"] == 1


def test_one_of_several_sizes_changes():
    layer = L.Reshape((2, 6))
    found = with_sizes(
        layer.get_config(), "r", {"r": [change("r", "target_shape", 6, 5, 1)]}, layer
    )
    assert list(found["target_shape"]) == [2, 5]


def test_another_size_than_was_planned_for_is_refused():
    layer = L.Dense(4, name="a")
    with pytest.raises(CutError, match="expected 5; received a model with 4"):
        with_sizes(layer.get_config(), "a", {"a": [change("a", "units", 5, 3)]}, layer)


def test_positions_in_an_index_are_updated():
    operation = keras.Input((8,))[:, 2:6]._keras_history.operation
    changes = [change("g", "key", 2, 1, 3), change("g", "key", 6, 4, 4)]
    _, key = with_positions(operation, ["x", (slice(None), slice(2, 6))], changes)
    assert key == (slice(None), slice(1, 4))
    assert with_positions(L.Dense(2), ["x"], changes) == ["x"]
