"""Latency models with given costs instead of measured ones."""

import numpy as np

from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import TERMS, LatencyModel

TIMES = {
    "constant": 0.3,
    "macs of 1x1": 1e-3,
    "macs of kxk": 5e-3,
    "macs in whole vectors": 2e-4,
    "macs, no multiple of 16": 3e-4,
    "depthwise macs": 2e-2,
    "numbers moved": 4e-3,
    "weights": 7e-3,
}
"""Milliseconds of one of each: something of everything."""


def latency_model(network, times=TIMES, multiple=1, images=1, **given):
    """Of what each term costs; the dense network takes as long as that says."""
    costs = np.array([times.get(name, 0.0) for name in TERMS])
    fitted = LatencyModel(
        Conditions(threads=1), images, 1.0, tuple(costs.tolist()), (0.0,), multiple, {}, **given
    )
    dense = fitted.predictor(network)(network.alive())
    return LatencyModel(
        fitted.conditions, images, dense, fitted.costs, (0.0,), multiple, {}, **given
    )
