"""Ablation, exact and by racing, against real cuts and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.criteria import critical_channels
from secateurs.errors import DataError
from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.statistics.loss import PerExampleLoss
from support.random_networks import RandomNetwork, example, recipes
from support.small_networks import (
    CLASSES,
    MODELS,
    Plain,
    Residual,
    images,
    labels,
    losses,
)

X, Y = images(), labels()


def right(model, x=X, y=Y):
    with torch.no_grad():
        return (model(torch.from_numpy(x)).argmax(1) == torch.from_numpy(y)).numpy()


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_removing_a_channel_alone_is_the_real_cut_of_it(model):
    model = model()
    network = sec.trace(model, X[:1])
    ablation = ablate_channels(network, (X, Y))
    dense = losses(model)
    assert ablation.dense_loss == pytest.approx(dense.mean().item(), rel=1e-5)
    for group in network.groups:
        for channel in range(len(group)):
            small = sec.apply(model, network.cut({group.name: [channel]}), X[:1], network=network)
            expected = (losses(small) - dense).mean().item()
            assert ablation.estimate[group.name][channel] == pytest.approx(
                expected, rel=1e-3, abs=2e-6
            )


def test_only_the_pairs_that_are_asked_for_are_run():
    network = sec.trace(Plain(), X[:1])
    removals = Removals(network, PerExampleLoss(None, "test"), CalibrationBatch(X, Y))
    dense, group = removals.dense(CalibrationBatch(X, Y)), network.groups[0]
    every = np.arange(len(group))
    whole = removals.ablate(dense, group, every)
    where = np.random.default_rng(0).random(whole.loss.shape) < 0.3
    route = removals.routes.of(group)
    run = sum(len(pairs) for pairs in removals.iterate_pairs(dense, group, route, every, where))
    assert 0 < run <= where.sum()
    some = removals.ablate(dense, group, every, where)
    torch.testing.assert_close(some.loss[where], whole.loss[where], rtol=1e-4, atol=1e-6)
    assert (some.loss[~where] == 0).all()


@settings(max_examples=40)
@given(recipes(), st.integers(0, 2**16))
def test_any_channel_of_any_network_is_removed_exactly(recipe, seed):
    model = RandomNetwork(recipe).eval()
    x = torch.cat([example(), example() * -0.5 + 0.1]).numpy()
    network = sec.trace(model, x[:1])
    objective = PerExampleLoss(lambda out, _: out.flatten(1).square().mean(1), "test")
    removals = Removals(network, objective, CalibrationBatch(x, None))
    dense = removals.dense(CalibrationBatch(x, None))
    random = np.random.default_rng(seed)
    for group in network.groups:
        if len(group) < 2:
            continue
        channel = int(random.integers(len(group)))
        changes = removals.ablate(dense, group, np.array([channel]))
        small = sec.apply(model, network.cut({group.name: [channel]}), x[:1], network=network)
        with torch.no_grad():
            expected = small(torch.from_numpy(x)).flatten(1).square().mean(1) - dense.losses
        scale = 1e-4 * (1 + dense.losses.abs().max().item())
        torch.testing.assert_close(changes.loss[0], expected.double(), rtol=1e-3, atol=scale)


def test_all_classes_come_at_once():
    model = Residual()
    network = sec.trace(model, X[:1])
    ablation = ablate_channels(network, [(X[:3], Y[:3]), (X[3:], Y[3:])])
    before, dense = right(model), losses(model).numpy()
    np.testing.assert_array_equal(ablation.images, np.bincount(Y, minlength=CLASSES))
    np.testing.assert_array_equal(ablation.dense_correct, np.bincount(Y[before], minlength=CLASSES))
    for channel in range(3):
        small = sec.apply(model, network.cut({"stem": [channel]}), X[:1], network=network)
        after, loss = right(small), losses(small).numpy()
        for label in range(CLASSES):
            of = label == Y
            fall = before[of].mean() - after[of].mean() if of.any() else 0
            assert ablation.accuracy_loss("stem")[channel, label] == pytest.approx(fall)
            change = (loss - dense)[of].sum()
            assert ablation.loss["stem"][channel, label] == pytest.approx(
                change, rel=1e-3, abs=1e-5
            )


def test_the_critical_channels_of_every_class_stay():
    model = Residual(width=8)
    network = sec.trace(model, X[:1])
    ablation = ablate_channels(network, (X, Y))
    gone = critical_channels(network, ablation, best=2)
    for group in network.groups:
        kept = np.setdiff1d(np.arange(len(group)), gone.get(group.name, []))
        damage = ablation.damage(group.name)[:, ablation.images > 0]
        worst = np.argsort(-damage, axis=0, kind="stable")[:2]
        assert set(kept) == set(worst.ravel())
    small = sec.apply(model, network.cut(gone), X[:1], network=network)
    assert sec.report_of(small).proof.holds


def test_a_dead_channel_changes_nothing_at_all():
    model = Residual()
    with torch.no_grad():
        model.norm1.weight[3] = 0
        model.norm1.bias[3] = -1
    ablation = ablate_channels(sec.trace(model, X[:1]), (X, Y))
    assert ablation.estimate["conv1"][3] == 0
    assert (ablation.correct["conv1"][3] == 0).all()
    assert (ablation.estimate["conv1"][[0, 1, 2]] != 0).all()


def brightness_network():
    """A network that has learned something: the quarter of the image that is brightest."""
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 3, 6, 6)).astype(np.float32)
    y = random.integers(0, CLASSES, 512)
    for image, label in enumerate(y):
        row, column = divmod(label, 2)
        x[image, :, row * 3 : row * 3 + 3, column * 3 : column * 3 + 3] += 0.8
    model = Residual(width=16).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        rows = np.arange(step * 64, step * 64 + 64) % 512
        loss = F.cross_entropy(model(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), x, y


@pytest.mark.parametrize("scope", ["network", "group"])
def test_racing_finds_the_lowest_and_reports_its_confidence(scope):
    model, x, y = brightness_network()
    network = sec.trace(model, x[:1])
    exact = ablate_channels(network, (x, y))
    raced = ablate_channels(network, (x, y), mode="racing", share=0.3, scope=scope, confidence=0.95)
    names = [group.name for group in network.groups]
    flat = np.concatenate([exact.estimate[name] for name in names])
    if scope == "network":
        limit = np.sort(flat)[round(0.3 * len(flat)) - 1]
        true = {(n, c) for n in names for c in np.flatnonzero(exact.estimate[n] <= limit)}
    else:
        true = {
            (n, int(c))
            for n in names
            for c in np.argsort(exact.estimate[n])[: max(1, round(0.3 * len(exact.estimate[n])))]
        }
    found = {(n, int(c)) for n in names for c in raced.lowest[n]}
    assert len(found) == len(true)
    assert len(found & true) >= 0.85 * len(true)
    within = total = 0
    for name in names:
        known = raced.seen[name] == len(x)
        np.testing.assert_allclose(
            raced.estimate[name][known], exact.estimate[name][known], rtol=1e-4, atol=1e-7
        )
        assert (raced.error[name][known] == 0).all()
        gap = np.abs(raced.estimate[name] - exact.estimate[name])[~known]
        within += (gap <= raced.error[name][~known]).sum()
        total += gap.size
    assert within >= 0.85 * total > 0
    assert exact.exact
    assert not raced.exact
    assert raced.spent < 1


def test_racing_cannot_say_what_is_critical():
    model, x, y = brightness_network()
    network = sec.trace(model, x[:1])
    raced = ablate_channels(network, (x, y), mode="racing", share=0.1, confidence=0.5)
    with pytest.raises(sec.SecateursError, match="in exact mode"):
        critical_channels(network, raced)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode"),
        ({"mode": "racing", "share": 1.5}, "share"),
        ({"confidence": 0}, "confidence"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        ablate_channels(sec.trace(Plain(), X[:1]), (X, Y), **options)
