"""The public calls together: each equals the parts that it names, before and after a cut."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from support.small_networks import Plain, Residual, images, labels

X, Y = images(), labels()


def test_prune_is_score_plan_and_apply():
    model = Plain()
    found = sec.prune(model, X[:1], sec.Budget(params=0.6), criterion="l2")
    network = sec.trace(model, X[:1])
    cut = sec.plan(network, sec.score(network, "l2"), sec.Budget(params=0.6))
    assert found.cut == cut
    by_hand = sec.apply(model, cut, X[:1])
    x = torch.from_numpy(X)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), by_hand(x))
    assert sum(p.numel() for p in found.model.parameters()) == cut.after.params


def test_delete_channels_is_what_a_slice_by_hand_is():
    model = Plain()
    small = sec.delete_channels(model, {"conv1": [0, 3]}, X[:1])
    kept = [1, 2, 4]
    x = torch.from_numpy(X)
    with torch.no_grad():
        h = torch.relu(model.norm1(model.conv1(x)))[:, kept]
        h = torch.conv2d(h, model.conv2.weight[:, kept], model.conv2.bias, padding=1)
        expected = model.head(torch.relu(model.norm2(h)).mean((2, 3)))
        torch.testing.assert_close(small(x), expected)
    assert model.conv1.out_channels == 5  # the user's own is unchanged


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    small = sec.delete_channels(Residual(), {"stem": [1], "last": [0, 2]}, X[:1])
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(Residual(seed=5), tmp_path / "small.safetensors")
    x = torch.from_numpy(X)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    assert sec.report_of(loaded).cut == sec.report_of(small).cut


def test_sensitivity_plans_by_what_was_measured():
    network = sec.trace(Plain(), X[:1])
    measured = sec.sensitivity(network, (X, Y), amounts=(0.2, 0.6))
    cut = sec.plan(network, sec.score(network), amount=0.4, sensitivity=measured)
    left = network.cost(cut).channels / network.cost().channels
    assert 0.4 <= left <= 0.7


def test_missing_or_invalid_budgets_are_refused():
    network = sec.trace(Plain(), X[:1])
    scores = sec.score(network)
    with pytest.raises(sec.BudgetError):
        sec.plan(network, scores)
    with pytest.raises(sec.SecateursError, match="amount"):
        sec.prune(Plain(), X[:1], amount=1.5)
    assert np.isfinite(scores["conv1"]).all()


def test_what_comes_out_prints_as_its_tables():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    inputs = torch.randn(6, 4)
    pruned = sec.prune(model, inputs, sec.Budget(channels=0.5))
    assert str(pruned) == str(pruned.report)
    assert str(pruned.cut) == pruned.cut.explain()
    network = sec.trace(model, inputs)
    shown = str(sec.ablate(network, (inputs, torch.zeros(6, dtype=torch.long))))
    group, channels, *_ = shown.splitlines()[2].split()
    assert (group, channels) == ("0", "8")
    assert "6 images; loss " in shown
