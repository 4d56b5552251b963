import numpy as np

import secateurs as sec
from support.small_networks import Residual, images


def test_each_group_has_its_own_random_stream():
    network = sec.trace(Residual(), images()[:1])
    scores = sec.score(network, "random", seed=7)
    streams = np.random.default_rng(7).spawn(len(network.groups))
    for group, stream in zip(network.groups, streams, strict=True):
        np.testing.assert_array_equal(scores[group.name], stream.random(len(group)))
    other = sec.score(network, "random", seed=8)
    assert all((scores[name] != other[name]).all() for name in scores)
