"""Repair gives the same in both frameworks and in NumPy; the frontier is consistent."""

import re
import warnings
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from contract.sides import SIDES, _arrange, _theirs
from secateurs.backends import repairing
from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError
from secateurs.planning.error_curves import GroupTrial
from secateurs.reconstruction.pruner import Request, curves_of, repair_after_
from support.peers import run_with_peers

on_both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
ARCHITECTURES = ("plain", "residual", "mobile", "branches", "gated")


@contextmanager
def expect_warning(message):
    """Unlike ``pytest.warns``, this does not raise again what Keras and NumPy say to each other."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    fidelity = [str(one.message) for one in seen if one.category is UserWarning]
    assert any(re.search(message, one) for one in fidelity), fidelity


def images(side, architecture, count=160, seed=0):
    shape = (5,) if architecture == "gated" else (3, 6, 6)
    found = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    if side.name == "keras" and found.ndim == 4:
        return np.ascontiguousarray(found.transpose(0, 2, 3, 1))
    return found


def answers(side, model, data):
    if side.name == "keras":
        given = np.asarray(keras.ops.convert_to_numpy(model(data, training=False)))
        return given if given.ndim == 2 else given.transpose(0, 3, 1, 2)
    with torch.no_grad():
        return model(torch.from_numpy(data)).numpy()


def build(side, architecture):
    """With running means equal to those of the images, so that none is unlike the training data."""
    model = side.build(architecture)
    if side.name == "pytorch":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.mul_(0.1)
        return model
    for variable in model.weights:
        if variable.name == "moving_mean":
            variable.assign(0.1 * variable.value)
    return model


def cut_by_hand(side, architecture):
    """Every second channel of every group, the same in both frameworks."""
    dense, x = build(side, architecture), side.inputs(architecture)
    network = sec.trace(dense, x)
    removed = {g.name: range(0, len(g) - 1, 2) for g in network.groups if len(g) > 1}
    return dense, sec.apply(dense, network.cut(removed), x)


def weights_of(side, model, architecture):
    """Every weight in Keras's order of axes, by name."""
    if side.name == "keras":
        return {
            f"{layer.name}.{variable.name}": np.asarray(keras.ops.convert_to_numpy(variable))
            for layer in model.layers
            for variable in layer.weights
        }
    like, state = SIDES["keras"].build(architecture), model.state_dict()
    found = {}
    for layer in like.layers:
        for variable in layer.weights:
            name, values = _theirs(layer, variable, state)
            found[f"{layer.name}.{variable.name}"] = _small(layer, name, values, state)
    return found


def _small(layer, name, values, state):
    """As ``_arranged``, by the sizes of a cut model."""
    if isinstance(layer, keras.layers.DepthwiseConv2D) and values.ndim == 4:
        read = len(state["conv1.weight"])
        return values.reshape(read, -1, *values.shape[2:]).transpose(2, 3, 0, 1)
    if name == "hidden.weight":
        return values.reshape(len(values), -1, 2, 2).transpose(2, 3, 1, 0).reshape(-1, len(values))
    return _arrange(layer, name, values, "")


@on_both
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_repair_comes_nearer_and_changes_nothing_else(side, architecture):
    dense, cut = cut_by_hand(side, architecture)
    states = [side.state(one) for one in (dense, cut)]
    repaired = sec.repair(cut, dense, images(side, architecture))
    fidelity = sec.report_of(repaired).fidelity
    assert fidelity["repaired"].distance < fidelity["dropped"].distance
    assert fidelity.fidelity.distance == min(stage.fidelity.distance for stage in fidelity)
    assert all(layer.after <= layer.before for layer in fidelity.layers)
    assert side.params(repaired) == side.params(cut)
    assert sec.report_of(repaired).cut == sec.report_of(cut).cut
    for one, before in zip((dense, cut), states, strict=True):
        assert all(map(np.array_equal, side.state(one), before))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_frameworks_find_the_same_weights(architecture):
    found = []
    for side in SIDES.values():
        dense, cut = cut_by_hand(side, architecture)
        repaired = sec.repair(cut, dense, images(side, architecture))
        fresh = answers(side, repaired, images(side, architecture, seed=9))
        fidelity = sec.report_of(repaired).fidelity
        found.append((weights_of(side, repaired, architecture), fresh, fidelity))
    (mine, one, ours), (theirs, other, others) = found
    assert mine.keys() == theirs.keys()
    if architecture == "mobile":  # its head reads four values of rank three: no unique solution
        mine.pop("head.kernel"), mine.pop("head.bias")
    for name, values in mine.items():
        np.testing.assert_allclose(theirs[name], values, atol=1e-4 * max(1, np.abs(values).max()))
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    for stage in ours:
        assert others[stage.name].distance == pytest.approx(stage.fidelity.distance, rel=1e-2)
    for layer, same in zip(by_layer(ours), by_layer(others), strict=True):
        assert layer_of(layer) == layer_of(same)
        if str(layer.ridge) != str(same.ridge):  # a tie: which of two is chosen is rounding
            assert layer.after == pytest.approx(same.after, rel=1e-3, abs=1e-6)


def test_both_frameworks_fit_the_same_augmented_copies():
    found, plain = [], []
    for side in SIDES.values():
        dense, cut = cut_by_hand(side, "plain")
        # Ten images are fitted to besides those held out: too few without copies.
        few = images(side, "plain", count=16)
        options = {"augmentation": sec.Augmentation(flip=True, shift=1), "copies": 3}
        with expect_warning("16 calibration images are few"):
            repaired = sec.repair(cut, dense, few, **options)
        with expect_warning("16 calibration images are few"):
            plain.append(weights_of(side, sec.repair(cut, dense, few), "plain"))
        found.append(weights_of(side, repaired, "plain"))
    mine, theirs = found
    for name, values in mine.items():
        np.testing.assert_allclose(theirs[name], values, atol=1e-3 * max(1, np.abs(values).max()))
    assert max(np.abs(mine[name] - plain[0][name]).max() for name in mine) > 0.01


def by_layer(report):
    """Refits in any order of the branches."""
    return sorted(report.layers, key=lambda one: (*layer_of(one), str(one.ridge)))


def layer_of(one):
    return one.weight.rpartition(".")[0], one.inputs


@pytest.mark.parametrize("architecture", ["plain", "residual", "branches"])
def test_both_frameworks_allocate_and_select_the_same(architecture):
    found = []
    for side in SIDES.values():
        dense, data = build(side, architecture), images(side, architecture)
        pruned = sec.prune(dense, data[:2], sec.Budget(macs=0.5), calibration=data)
        network = sec.trace(dense, data[:2])
        assert network.macs(pruned.cut) <= 0.5 * network.macs()
        assert pruned.report.proof.holds
        gone = {name: tuple(one.removed) for name, one in pruned.cut.channels.items()}
        found.append((gone, answers(side, pruned.model, images(side, architecture, seed=9))))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(*(one for _, one in found), atol=2e-3 * np.abs(found[0][1]).max())


def two_layers(side):
    """One linear layer behind another, with the same weights on either side."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    if side.name == "pytorch":
        return made, {"0": [2, 5]}
    i = keras.Input((6,))
    x = keras.layers.Dense(8, "tanh", name="first")(i)
    model = keras.Model(i, keras.layers.Dense(3, name="second")(x))
    model.set_weights([one.detach().numpy().T for one in made.parameters()])
    return model, {"first": [2, 5]}


@on_both
def test_the_small_weights_are_what_numpy_finds(side):
    """Ridge least squares with the chosen ridge, on inputs collected by hand."""
    model, channels = two_layers(side)
    data = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    cut = sec.delete_channels(model, channels, data[:1])
    repaired = sec.repair(cut, model, data)
    (layer,) = sec.report_of(repaired).fidelity.layers
    assert layer.inputs == 6
    assert layer.after < layer.before
    first, shift, second, bias = (one.astype(np.float64) for one in by_inputs(side, model))
    order = np.random.default_rng(0).permutation(200)
    fitted = data[np.sort(order[25:])].astype(np.float64)  # held-out images are not fitted
    hidden = np.tanh(fitted @ first + shift)
    u, y = np.delete(hidden, [2, 5], axis=1), hidden @ second + bias
    present = np.delete(second, [2, 5], axis=0)
    centred, goal = u - u.mean(0), y - y.mean(0)
    pull = np.sqrt(layer.ridge * np.square(centred).mean() * len(u))
    stacked = np.vstack([centred, pull * np.eye(6)])
    weights = np.linalg.lstsq(stacked, np.vstack([goal, pull * present]), rcond=None)[0]
    _, _, found, intercept = by_inputs(side, repaired)
    np.testing.assert_allclose(found, weights, atol=2e-5)
    np.testing.assert_allclose(intercept, y.mean(0) - u.mean(0) @ weights, atol=2e-5)


def by_inputs(side, model):
    state = side.state(model)
    return [one.T for one in state] if side.name == "pytorch" else state


@on_both
def test_half_precision_is_solved_in_double(side):
    dense, cut = cut_by_hand(side, "residual")
    if side.name == "pytorch":
        dense, cut = dense.to(torch.bfloat16), cut.to(torch.bfloat16)
    else:
        kept = [model.get_weights() for model in (dense, cut)]
        dense, cut = (_in_bfloat16(one) for one in (dense, cut))
        for one, values in zip((dense, cut), kept, strict=True):
            one.set_weights(values)
    data = images(side, "residual")
    repaired = sec.repair(cut, dense, data)
    fidelity = sec.report_of(repaired).fidelity
    assert fidelity.kept.startswith("repaired")
    assert fidelity["repaired"].distance < fidelity["dropped"].distance


def _in_bfloat16(model):
    from secateurs.channels.cut import Cut
    from secateurs.keras.surgery.rebuilding import cut_copy

    return cut_copy(model, Cut(), dtype=lambda name: "bfloat16")


@on_both
def test_memory_bounds_how_many_images_are_fitted(side, monkeypatch):
    from secateurs.reconstruction import refitting

    dense, cut = cut_by_hand(side, "residual")
    data = images(side, "residual", 200)
    whole = sec.report_of(sec.repair(cut, dense, data)).fidelity.peak_bytes
    value = 175 * 6 * 6 * 8 * 4  # of one layer's values, of the images that are fitted
    assert value < whole < 5 * value
    monkeypatch.setattr(refitting, "MOST_BYTES", whole // 2)
    with expect_warning(r"the activations of 175 images need .* GB"):
        repaired = sec.repair(cut, dense, data)
    assert sec.report_of(repaired).fidelity.peak_bytes <= whole // 2


@on_both
@pytest.mark.parametrize("share", [0.5])
def test_the_frontier_never_loses_by_spending_more(side, share):
    dense, data = build(side, "residual"), images(side, "residual")
    labels = answers(side, dense, data).argmax(1)
    shares = (0.8, share, 0.25)
    found = sec.frontier(dense, data[:2], calibration=(data, labels), shares=shares)
    assert [point.name for point in found] == ["dense", *(f"macs={each}" for each in shares)]
    distances = [point.fidelity.distance for point in found]
    assert distances == sorted(distances)
    assert found.measure == "accuracy"
    macs = sec.trace(dense, data[:2]).macs()
    for point, each in zip(list(found)[1:], shares, strict=True):
        assert point.cost.macs <= each * macs
        assert sec.trace(point.model, data[:2]).macs() == point.cost.macs
    assert found.model(f"macs={share}") is found[f"macs={share}"].model


@on_both
def test_distillation_comes_last_and_only_helps(side):
    dense, data = build(side, "residual"), images(side, "residual")
    budget = sec.Budget(macs=0.4)
    pruned = sec.prune(dense, data[:2], budget, calibration=data, distil=20)
    fidelity = pruned.report.fidelity
    assert [stage.name for stage in fidelity][-1] == "distilled"
    assert fidelity.fidelity.distance <= fidelity["repaired"].distance + 1e-6
    assert pruned.report.proof.holds


@on_both
def test_another_network_is_refused(side):
    _, cut = cut_by_hand(side, "plain")
    other, _ = cut_by_hand(side, "residual")
    with pytest.raises(sec.CutError, match="expected a small model with the dense one's tensors"):
        sec.repair(cut, other, images(side, "plain"))
    data = np.random.default_rng(1).normal(size=(96, 6)).astype(np.float32)
    model, channels = two_layers(side)
    unlike = _with_relu(side, model)
    small = sec.delete_channels(unlike, channels, data[:1])
    with pytest.raises(sec.ModelError, match="has others in their place"):
        sec.repair(small, model, data)


def _with_relu(side, model):
    if side.name == "pytorch":
        return nn.Sequential(model[0], nn.ReLU(), model[2])
    i = keras.Input((6,))
    x = keras.layers.Dense(8, "relu", name="first")(i)
    made = keras.Model(i, keras.layers.Dense(3, name="second")(x))
    made.set_weights(model.get_weights())
    return made


@on_both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:40], "40 calibration images are few"),
        (lambda data: np.repeat(data[:1], 80, axis=0), "all 80 calibration images are identical"),
        (lambda data: data * 20 + 5, r"unlike the training data: in .* standard deviations"),
    ],
)
def test_doubtful_images_are_warned_of(side, change, message):
    dense, cut = cut_by_hand(side, "residual")
    with expect_warning(message):
        sec.repair(cut, dense, change(images(side, "residual")))


@on_both
def test_what_cannot_be_done_is_said(side):
    dense, cut = cut_by_hand(side, "residual")
    data = images(side, "residual")
    broken = data.copy()
    broken[7, 0, 0, 0] = np.nan
    with pytest.raises(sec.DataError, match="image 7 holds NaN"):
        sec.repair(cut, dense, broken)
    with pytest.raises(sec.DataError, match="expected at least 4 calibration images"):
        sec.repair(cut, dense, data[:3])
    with pytest.raises(sec.SecateursError, match="distil: expected a number of steps"):
        sec.prune(dense, data[:2], sec.Budget(macs=0.5), calibration=data, distil="soon")


def test_without_images_both_stand_in_by_the_moments_of_batch_norm():
    found = []
    for side in SIDES.values():
        dense, data = build(side, "residual"), images(side, "residual", seed=9)
        budget = sec.Budget(channels=0.7)
        with expect_warning("running statistics of batch normalisation"):
            repaired = sec.prune(dense, data[:2], budget, repair=True)
        plain = sec.prune(dense, data[:2], budget)
        assert repaired.cut == plain.cut
        found.append([answers(side, one.model, data) for one in (plain, repaired)])
        assert np.abs(found[-1][0] - found[-1][1]).max() > 1e-3 * np.abs(found[-1][0]).max()
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4 * np.abs(found[0][1]).max())


@on_both
def test_without_images_and_batch_norm_noise_has_to_do(side):
    dense = build(side, "plain")
    x = side.inputs("plain")
    with expect_warning("256 images of noise"):
        found = sec.prune(dense, x, sec.Budget(macs=0.5), repair=True)
    fidelity = found.report.fidelity
    assert fidelity["repaired"].distance < fidelity["dropped"].distance


@on_both
def test_images_that_say_nothing_of_a_layer_leave_it(side):
    """A singular Gram matrix: dead channels and duplicates."""
    model, channels = two_layers(side)
    data = np.repeat(np.random.default_rng(1).normal(size=(96, 1)), 6, 1).astype(np.float32)
    cut = sec.delete_channels(model, channels, data[:1])
    repaired = sec.repair(cut, model, data)
    assert all(np.isfinite(one).all() for one in side.state(repaired))
    fidelity = sec.report_of(repaired).fidelity
    assert fidelity.fidelity.distance <= fidelity["dropped"].distance


@on_both
def test_a_loss_of_the_users_own_measures_the_curves(side):
    """The increase of the loss, measured on the cut model itself."""
    dense = build(side, "residual")
    data = images(side, "residual", 12)
    labels = np.random.default_rng(3).normal(size=12).astype(np.float32)
    network = sec.trace(dense, side.inputs("residual"))
    group = max(network.groups, key=len)
    gone = group.channels[: len(group) // 2]
    trial = GroupTrial(group.name, len(group) - len(gone), gone, (), dict)

    def loss(outputs, labels):
        return (outputs[:, 1] - labels) ** 2

    (found,) = repairing(network.source.framework).judge_trials(
        network, CalibrationBatch(data, labels), [trial], "loss", loss=loss
    )
    small = sec.apply(dense, network.cut({group.name: range(len(gone))}), side.inputs("residual"))
    before, after = (
        np.square(answers(side, model, data)[:, 1] - labels) for model in (dense, small)
    )
    assert found.kind == "loss"
    assert found.distance == pytest.approx((after - before).mean(), rel=1e-4)
    with pytest.raises(DataError, match="one loss for each image"):
        repairing(network.source.framework).judge_trials(
            network,
            CalibrationBatch(data, labels),
            [trial],
            "loss",
            loss=lambda outputs, labels: outputs,
        )


@on_both
@pytest.mark.parametrize("architecture", ["residual", "gated"])
def test_processes_that_share_images_repair_as_one_does(side, architecture, monkeypatch):
    """Each walks with its own images only, and all end with the same weights to the last bit."""
    data, framework, walked = images(side, architecture), repairing(side.name), []
    walk = framework.walk

    def watch(network, small, alive, fit, held, *others, **named):
        walked.append(len(fit))
        return walk(network, small, alive, fit, held, *others, **named)

    monkeypatch.setattr(framework, "walk", watch)
    pairs = [cut_by_hand(side, architecture) for _ in range(4)]
    networks = [sec.trace(dense, side.inputs(architecture)) for dense, _ in pairs]

    def repair(number, **named):
        small = pairs[number][1]
        report = repair_after_(networks[number], small, sec.report_of(small).cut, data, 0, **named)
        return report, side.state(small)

    whole, values = repair(3)
    together = run_with_peers(3, lambda peers: repair(peers.rank, peers=peers))
    assert walked[0] == sum(walked[1:])
    assert max(walked[1:]) <= walked[0] / 3 + 1
    for report, found in together:
        assert report.kept == whole.kept
        assert report.fidelity.images == whole.fidelity.images
        assert report.fidelity.distance == pytest.approx(whole.fidelity.distance, rel=0.02)
        for one, other in zip(found, values, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3 * max(1, np.abs(other).max()))
        assert all(map(np.array_equal, found, together[0][1]))


@on_both
def test_processes_that_share_images_measure_the_same_curves(side, monkeypatch):
    """Each plays some of the trials only."""
    data, framework, played = images(side, "plain"), repairing(side.name), []
    judge = framework.judge_trials

    def watch(network, judging, trials, *others, **named):
        played.append(len(trials))
        return judge(network, judging, trials, *others, **named)

    monkeypatch.setattr(framework, "judge_trials", watch)
    networks = [sec.trace(build(side, "plain"), side.inputs("plain")) for _ in range(3)]
    whole, _ = curves_of(networks[2], data, Request())
    together = run_with_peers(
        2, lambda peers: curves_of(networks[peers.rank], data, Request(peers=peers))[0]
    )
    assert played[0] == sum(played[1:])
    assert abs(played[1] - played[2]) <= 1
    for found in together:
        for group, losses in whole.losses.items():
            np.testing.assert_allclose(found.losses[group], losses, atol=0.05 * losses.max())
            np.testing.assert_array_equal(found.losses[group], together[0].losses[group])
