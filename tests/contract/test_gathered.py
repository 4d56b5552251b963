"""Calibration statistics of channels agree between frameworks for the same weights."""

import numpy as np
import pytest

import secateurs as sec
from contract.sides import SIDES
from secateurs.calibration.needs import Need
from secateurs.criteria.registry import CRITERIA
from secateurs.criteria.scoring import collect_statistics

IMAGES = 11
CLASSES = 4
WITH_DATA = [
    name for name, known in CRITERIA.items() if (known.needs | known.with_data) & Need.DATA
]


def data(side, architecture):
    shape = (5,) if architecture == "gated" else (3, 6, 6)
    random = np.random.default_rng(2)
    images = random.standard_normal((IMAGES, *shape)).astype("float32")
    if side.name == "keras" and images.ndim == 4:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images, random.integers(0, CLASSES, IMAGES)


def trace_side(side, architecture):
    return sec.trace(side.build(architecture), side.inputs(architecture))


@pytest.mark.filterwarnings("ignore:apoz counts values:UserWarning")
@pytest.mark.parametrize("architecture", ["plain", "residual", "gated"])
@pytest.mark.parametrize("criterion", WITH_DATA)
def test_the_same_data_score_the_same(architecture, criterion):
    mine, theirs = (
        sec.score(trace_side(side, architecture), criterion, data=data(side, architecture))
        for side in SIDES.values()
    )
    assert set(mine) == set(theirs)
    for name, scores in mine.items():
        scale = np.abs(scores).max()
        assert np.allclose(scores, theirs[name], rtol=1e-5, atol=1e-5 * scale), name


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_what_is_read_is_the_same(architecture):
    """Zeros, sums and squares of every reading, not only what criteria make of them."""
    found = []
    for side in SIDES.values():
        network = trace_side(side, architecture)
        readings = collect_statistics(network, Need.ACTIVATIONS, data(side, architecture)).readings
        found.append(
            sorted(
                (reading.count * len(reading.units), reading.zeros.sum(), reading.absolute.sum())
                for reading in readings
            )
        )
    assert np.allclose(found[0], found[1], rtol=1e-5)
