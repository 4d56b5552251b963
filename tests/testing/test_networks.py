import pytest
import torch

import secateurs as sec
from secateurs.testing.networks import NETWORKS, build_network, images, labels

EXPECTED = {
    "plain": {"conv1": 5, "conv2": 4},
    "residual": {"stem": 6, "conv1": 5},
    "grouped": {"first": 8, "grouped": 8},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_reproducible_and_change_no_random_state(name):
    state = torch.get_rng_state()
    one, again, other = (build_network(name, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.from_numpy(images())
    with torch.no_grad():
        assert torch.equal(one(x), again(x))
        assert not torch.equal(one(x), other(x))
        assert one(x).shape == (8, 4)
    assert not one.training
    for module in one.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.running_var != 1).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_each_has_the_difficulty_that_it_says(name):
    network = sec.trace(build_network(name), images()[:1])
    widths = {group.name.partition("/")[0]: 0 for group in network.groups}
    for group in network.groups:
        widths[group.name.partition("/")[0]] += len(group) * group.members[0].each
    assert set(widths) <= set(EXPECTED[name])
    assert set(labels()) == {0, 1, 2, 3}
