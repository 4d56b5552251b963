"""Which weights are kept: those nearest to the dense network by more than noise."""

import numpy as np
import pytest

from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.report import Stage
from secateurs.reconstruction.session import most_faithful


def stage(name, distances):
    each = np.asarray(distances, float)
    return Stage(name, Fidelity("categorical", float(each.mean()), 0.1, None, len(each), each))


HARD = np.random.default_rng(0).exponential(size=64)
"""Some images are hard for every model: far more so than models differ."""


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (np.full(64, -0.01), "repaired, moments anew"),  # a little nearer, on every image
        (np.where(np.arange(64) == 7, -3.0, 0.03), "repaired"),  # nearer by one image alone
        (np.full(64, 0.01), "repaired"),
    ],
)
def test_reestimated_moments_are_kept_only_if_significantly_nearer(change, kept):
    stages = [
        stage("dropped", HARD + 2),
        stage("repaired", HARD),
        stage("dropped, moments anew", HARD + 1),
        stage("repaired, moments anew", HARD + change),
    ]
    assert most_faithful(stages).name == kept


def test_a_repair_that_is_no_nearer_than_the_cut_is_not_kept():
    assert most_faithful([stage("dropped", HARD), stage("repaired", HARD + 1e-6)]).name == "dropped"


def test_an_infinite_distance_is_never_nearer():
    far = Fidelity("relative", np.inf, np.inf, None, 2, np.array([1.0, np.inf]))
    near = Fidelity("relative", 1.0, 0.0, None, 2, np.array([1.0, 1.0]))
    assert near.is_surely_below(far)
    assert not far.is_surely_below(near)
