import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import UnknownNameError
from secateurs.keras.model.tensors import (
    calls_of,
    layers_by_path,
    list_tensors,
    named_operations,
    path_of,
    present_values,
    size_of,
)


def nest_models():
    shared = L.Dense(3, name="s")
    i = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), shared, L.BatchNormalization(name="n")], name="in")
    return keras.Model(i, shared(inner(i))), shared


def test_every_variable_comes_once_with_all_its_names():
    model, _ = nest_models()
    tensors = list_tensors(model)
    names = {tensor.name: tensor.aliases for tensor in tensors}
    assert names == {
        "in.s.kernel": ["s.kernel"],
        "in.s.bias": ["s.bias"],
        **{f"in.n.{one}": [] for one in ("gamma", "beta", "moving_mean", "moving_variance")},
    }
    assert len(tensors) == len({id(one) for one in model.variables})
    assert [one.name for one in tensors if not one.is_parameter] == [
        "in.n.moving_mean",
        "in.n.moving_variance",
    ]


def test_calls_are_listed_each_and_layers_once():
    model, shared = nest_models()
    assert [path for path, _ in calls_of(model)] == ["in.s", "in.n", "s"]
    assert [path for path, _ in named_operations(model)].count("in.s") == 1
    assert dict(layers_by_path(model))["in.s"] is shared


def test_a_layer_has_a_path_and_a_foreign_one_has_none():
    model, shared = nest_models()
    assert path_of(model, "anything") == "anything"
    assert path_of(model, shared) in ("s", "in.s")
    with pytest.raises(UnknownNameError, match="not one of its layers"):
        path_of(model, L.Dense(2, name="foreign"))


@pytest.mark.parametrize(("kind", "bytes_each"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_half_precision_is_read_as_float32(kind, bytes_each):
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, dtype=kind)])
    kernel, _ = list_tensors(model)
    assert (kernel.itemsize, size_of(kind)) == (bytes_each, bytes_each)
    assert kernel.array().dtype == np.float32
    assert kernel.array().shape == kernel.shape == (2, 3)


def test_present_values_are_the_variables():
    model, _ = nest_models()
    for variable, value in present_values(model).values():
        mine, theirs = (keras.ops.convert_to_numpy(one) for one in (variable.value, value))
        assert np.array_equal(mine, theirs)
    assert present_values(model).keys() == {id(one) for one in model.variables}
