import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.latest import latest_network, network_to_prove
from secateurs.errors import CutError


@pytest.fixture
def network_and_model():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return model, sec.trace(model, torch.randn(2, 3))


def _refuse():
    raise AssertionError("traced again")


def test_a_network_is_known_by_its_model_while_somebody_keeps_it(network_and_model):
    model, network = network_and_model
    assert latest_network(model) is network
    assert latest_network(nn.Linear(3, 2)) is None


def test_a_current_network_is_not_traced_again(network_and_model):
    _, network = network_and_model
    cut = network.cut({"0": [1]})
    assert network_to_prove(cut, (network, None), lambda _: True, _refuse) is network
    assert network_to_prove(cut, (None, network), lambda _: True, _refuse) is network


def test_one_that_is_no_longer_current_is(network_and_model):
    model, network = network_and_model
    cut = network.cut({"0": [1]})
    fresh = sec.trace(model, torch.randn(2, 3))
    known = network_to_prove(cut, (network, network), lambda _: False, lambda: fresh)
    assert known is fresh


def test_a_cut_of_another_model_is_refused(network_and_model):
    _, network = network_and_model
    other = sec.trace(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 3))
    with pytest.raises(CutError, match="planned for another"):
        network_to_prove(other.cut({"0": [1]}), (None, None), lambda _: True, lambda: network)
