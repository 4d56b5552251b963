import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import CutError
from secateurs.pytorch.model import tensors

X = torch.randn(2, 3)


def net(width=5):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)).eval()


def test_a_cut_by_hand_equals_the_planned_one():
    model = net()
    by_hand = sec.delete_channels(model, {"0": [1, 3]}, X)
    planned = sec.apply(model, sec.trace(model, X).cut({"0": [1, 3]}), X)
    keep = [0, 2, 4]
    assert torch.equal(by_hand[0].weight, model[0].weight[keep])
    assert torch.equal(by_hand[2].weight, model[2].weight[:, keep])
    assert all(map(torch.equal, by_hand.parameters(), planned.parameters()))


def test_a_cut_goes_with_its_optimizer():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(X).sum().backward()
    optimizer.step()
    cut = sec.trace(model, X).cut({"0": [1, 3]})
    small, sliced = sec.apply(model, cut, X, optimizer=optimizer)
    before = optimizer.state[model[0].weight]["momentum_buffer"]
    assert torch.equal(sliced.state[small[0].weight]["momentum_buffer"], before[[0, 2, 4]])


def test_a_cut_of_another_model_is_refused():
    cut = sec.trace(net(7), X).cut({"0": [1]})
    with pytest.raises(CutError):
        sec.apply(net(5), cut, X)


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_the_tensors_of_a_model_are_listed_once_in_a_cut(with_optimizer, monkeypatch):
    model = net()
    optimizer = torch.optim.Adam(model.parameters()) if with_optimizer else None
    network = sec.trace(model, X)
    cut = network.cut({"0": [1, 3]})
    listed = []
    named_tensors = tensors.named_tensors

    def note(one):
        listed.append(one)
        return named_tensors(one)

    monkeypatch.setattr(tensors, "named_tensors", note)
    sec.apply(model, cut, X, optimizer=optimizer, network=network)
    assert sum(one is model for one in listed) == 1
    assert len(listed) <= 2  # the small model's once more, for its optimizer
