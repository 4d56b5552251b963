"""Racing against exact ablation of every channel (single removals: ``test_removal``)."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.errors import DataError
from secateurs.keras.ablation.oracle import ablate_channels

CLASSES = 4


def brightness_network():
    """A network trained to find the brightest quarter of an image."""
    random = np.random.default_rng(0)
    x = random.standard_normal((256, 6, 6, 3)).astype("float32")
    y = random.integers(0, CLASSES, len(x))
    for image, label in enumerate(y):
        row, column = 3 * (label // 2), 3 * (label % 2)
        x[image, row : row + 3, column : column + 3] += 0.4
    i = keras.Input((6, 6, 3))
    stem = L.Conv2D(24, 3, padding="same", activation="relu", name="stem")(i)
    inner = L.Conv2D(32, 3, padding="same", use_bias=False, name="inner")(stem)
    inner = L.ReLU()(L.BatchNormalization(name="norm")(inner))
    sum_ = L.Add()([stem, L.Conv2D(24, 3, padding="same", name="outer")(inner)])
    hidden = L.Dense(32, activation="relu", name="hidden")(L.Flatten()(sum_))
    model = keras.Model(i, L.Dense(CLASSES, activation="softmax", name="head")(hidden))
    # The same weights on every backend, of the scale that initialisers use.
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = random.standard_normal(layer.kernel.shape)
            layer.kernel.assign(kernel * (2 / np.prod(kernel.shape[:-1])) ** 0.5)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=3, shuffle=False, verbose=0)
    return model, x, y


def lowest(values, share, scope):
    """(group, channel) of the lowest fraction of all channels, or of each group's."""
    teams = [
        [(value, name, c) for c, value in enumerate(losses)] for name, losses in values.items()
    ]
    if scope == "network":
        teams = [[one for team in teams for one in team]]
    return {one[1:] for team in teams for one in sorted(team)[: max(1, round(share * len(team)))]}


@pytest.mark.parametrize("scope", ["network", "group"])
def test_racing_finds_the_lowest_and_reports_its_confidence(scope):
    model, x, y = brightness_network()
    network = sec.trace(model)
    before = [weight.copy() for weight in model.get_weights()]
    exact = sec.ablate(network, (x, y))
    raced = sec.ablate(network, (x, y), mode="racing", share=0.2, scope=scope)
    true = lowest(exact.estimate, 0.2, scope)
    found = {(g.name, int(c)) for g in network.groups for c in raced.lowest[g.name]}
    assert len(found) == len(true)
    assert len(found & true) >= 0.9 * len(true)
    within = total = 0
    for name in exact.estimate:
        known = raced.seen[name] == len(x)
        same = raced.estimate[name][known], exact.estimate[name][known]
        np.testing.assert_allclose(*same, rtol=1e-4, atol=1e-6)
        assert (raced.error[name][known] == 0).all()
        gap = np.abs(raced.estimate[name] - exact.estimate[name])[~known]
        within += (gap <= raced.error[name][~known]).sum()
        total += len(gap)
    assert within >= 0.9 * total > 0
    assert exact.exact
    assert not raced.exact
    assert 0 < raced.spent < 0.5
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode"),
        ({"mode": "racing", "share": 1.5}, "share"),
        ({"mode": "racing", "scope": "layer"}, "scope"),
        ({"confidence": 0}, "confidence"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    i = keras.Input((4,))
    network = sec.trace(keras.Model(i, L.Dense(2)(L.Dense(3, activation="relu")(i))))
    with pytest.raises(DataError, match=message):
        ablate_channels(network, (np.zeros((2, 4), "float32"), np.array([0, 1])), **options)
