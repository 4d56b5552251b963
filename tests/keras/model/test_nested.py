"""The fast path for nested containers agrees with ``keras.tree``."""

from collections import OrderedDict, namedtuple

import keras
import numpy as np
import pytest

from secateurs.keras.model.nested import fill_in, flatten, map_structure

Pair = namedtuple("Pair", "x y")
X = np.ones(2)
CASES = [
    1,
    None,
    [],
    [1, (2.0, None), {"b": "x", "a": [True]}],
    (Pair(1, [2]), {"k": OrderedDict(z=1, a=2)}),
    {"x": X, "n": {}},
    [keras.KerasTensor((1, 2)), keras.Variable(X)],
]


@pytest.mark.parametrize("structure", CASES)
def test_flatten_and_map_agree_with_keras_tree(structure):
    assert list(map(id, flatten(structure))) == list(map(id, keras.tree.flatten(structure)))
    mine = map_structure(lambda item: (item,), structure)
    theirs = keras.tree.map_structure(lambda item: (item,), structure)
    assert type(mine) is type(theirs)
    assert repr(mine) == repr(theirs) or isinstance(structure, list)


def test_arguments_of_a_call_are_filled_in():
    one, two = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([one, two], keras.layers.Concatenate(axis=1)([one, two, one]))
    node = model.layers[-1]._inbound_nodes[0]
    assert fill_in(node, {id(one): "x", id(two): "y"}) == ((["x", "y", "x"],), {})
