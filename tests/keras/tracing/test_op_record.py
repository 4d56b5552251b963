import keras
import numpy as np

from secateurs.keras.tracing.op_record import Place, Value, values_in


def test_an_axis_is_counted_from_either_end():
    value = Value(keras.KerasTensor((2, 3, 5)))
    assert (Place(value, -1).at, Place(value, -1).length) == (2, 5)
    assert (Place(value, 1).at, Place(value, 1).length) == (1, 3)
    assert value.rank == 3
    assert value.shape == (2, 3, 5)


def test_values_are_found_in_any_structure_in_order():
    one, two = (Value(keras.KerasTensor((n,))) for n in (1, 2))
    assert values_in([[one, 7], {"a": np.zeros(2), "b": (two,)}]) == [one, two]
