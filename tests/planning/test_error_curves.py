"""Error curves through measured points, and refits without some inputs by SciPy."""

import numpy as np
import pytest
from scipy.linalg import lstsq

from secateurs.calibration.least_squares import Moments
from secateurs.planning import error_curves
from secateurs.planning.error_curves import (
    FEWEST_SHARES,
    SHARES,
    MeasuredContraction,
    curves_from,
    foreseen_by,
    orders_of,
    trials_of,
    widths_of,
)
from support.networks_by_hand import two_layers

RANDOM = np.random.default_rng(0)
U = RANDOM.normal(size=(300, 4)) @ RANDOM.normal(size=(4, 4)) + 1
W = RANDOM.normal(size=(4, 2))


def contraction(network, **options):
    changes = []

    def note(matrix, missing):
        changes.append((matrix, missing))
        return {"last.weight": matrix[0].T, "last.bias": missing}

    one = MeasuredContraction(
        "last.weight",
        network.tensors["last.weight"].axes[1],
        1,
        Moments.of(U[None], (U @ W)[None]),
        W[None],
        np.ones(2),
        note,
        **options,
    )
    return one, changes


@pytest.mark.parametrize("few", [4, 1], ids=["solved anew", "out of one inverse"])
@pytest.mark.parametrize("gone", [[1], [0, 2]])
def test_refitted_weights_compensate_for_removed_inputs(gone, few, monkeypatch):
    monkeypatch.setattr(error_curves, "FEW", few)
    one, changes = contraction(two_layers())
    one.ablate(np.array(gone))
    ((matrix, missing),) = changes
    assert np.abs(matrix[0][gone]).max() == 0
    kept = [i for i in range(4) if i not in gone]
    u, y = U - U.mean(0), U @ W - (U @ W).mean(0)
    best = np.square(y - u[:, kept] @ lstsq(u[:, kept], y)[0]).sum()
    plain = np.square(y - u[:, kept] @ W[kept]).sum()
    fitted = np.square(y - u @ matrix[0]).sum()
    assert best <= fitted < plain
    assert fitted < 1.1 * best  # but for the ridge
    # Added to the bias there is, it keeps each output's mean.
    np.testing.assert_allclose((U @ matrix[0]).mean(0) + missing, (U @ W).mean(0))


def test_widths_to_measure_are_distinct_and_below_the_full_width():
    assert widths_of(4, SHARES) == [3, 2, 1]
    assert widths_of(16, FEWEST_SHARES) == [8, 2]
    assert widths_of(1, SHARES) == []


def test_each_group_alone_is_cut_to_each_width():
    network = two_layers()
    one, _ = contraction(network)
    orders, foreseen = orders_of(network, [one], {})
    trials = list(trials_of(network, [one], orders, (0.5, 0.25)))
    (group,) = network.groups
    assert [(t.width, len(t.removed), t.weights) for t in trials] == [
        (2, 2, ("last.weight",)),
        (1, 3, ("last.weight",)),
    ]
    assert trials[0].removed.tolist() == group.channels[orders["first"][:2]].tolist()
    assert set(trials[0].changes()) == {"last.weight", "last.bias"}
    assert foreseen["first"][-1] == 0
    assert (np.diff(foreseen["first"]) <= 0).all()
    nobody, none = orders_of(network, [], {"first": np.array([3.0, 0, 2, 1])})
    assert nobody["first"].tolist() == [1, 3, 2, 0]
    assert none == {}


def test_between_widths_the_root_of_the_loss_is_straight():
    network = two_layers()
    curve = curves_from(network, {"first": {2: 4.0, 3: 1.0}})["first"]
    # Roots 2 and 1 at widths 2 and 3, 0 at 4: below 2 it goes on by one a channel.
    assert curve == pytest.approx([16.0, 9.0, 4.0, 1.0, 0.0])
    falling = curves_from(network, {"first": {1: 1.0, 2: 4.0, 3: np.nan}})["first"]
    assert (np.diff(falling) <= 0).all()
    assert falling[3] == pytest.approx(1e6)


def test_of_few_measurements_what_was_foreseen_is_scaled():
    network = two_layers()
    foreseen = {"first": np.array([8.0, 4, 2, 1, 0])}
    curve = curves_from(network, {"first": {2: 6.0}}, foreseen)["first"]
    assert curve == pytest.approx([24.0, 12, 6, 3, 0])
    assert foreseen_by(foreseen, network.groups[0])[-1] == 0
    assert foreseen_by({"first": np.zeros(5)}, network.groups[0])[0] > 0
