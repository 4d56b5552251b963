import keras
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy


def model(*layers, shape=(8, 8, 3)):
    return noisy(keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(2)]))


@pytest.mark.parametrize(
    ("shift", "axis", "stay"),
    [(1, -1, {7}), (-2, -1, {0, 1}), ((3, 1), (1, 2), {7}), (2, 1, set())],
)
def test_channels_rolled_around_the_end_are_frozen(shift, axis, stay):
    i = keras.Input((5, 6))
    rolled = keras.ops.roll(L.Dense(8, name="a")(i), shift, axis=axis)
    model = noisy(keras.Model(i, L.Dense(2, name="head")(rolled)))
    network = sec.trace(model)
    (group,) = network.groups
    (kernel,) = [m for m in group.members if (m.tensor, m.axis) == ("a.kernel", 1)]
    rows = network.positions(group, kernel)
    assert {int(row[0]) for row in rows} == set(range(8)) - stay
    for channel in range(len(group)):
        small = sec.apply(model, network.cut({"a": [channel]}), network=network)
        assert sec.report_of(small).proof.holds
