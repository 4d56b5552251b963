"""Calibration statistics, against independent routes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.network import Role
from secateurs.criteria import Need, collect_statistics, score, score_many
from secateurs.errors import DataError
from support.small_networks import Attention, Grouped, Plain, Residual, images, labels

X, Y = images(), labels()


def per_image_loss(model, image):
    rows = slice(image, image + 1)
    return F.cross_entropy(model(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows]))


def record_inputs(model, *names):
    """What these layers read, in double precision, as hooks see it."""
    seen = {}

    def note(module, inputs):
        seen[module] = inputs[0].double().clone()

    handles = [getattr(model, name).register_forward_pre_hook(note) for name in names]
    with torch.no_grad():
        model(torch.from_numpy(X))
    for handle in handles:
        handle.remove()
    modules = [getattr(model, name) for name in names]
    return [seen[module].movedim(1, -1).flatten(0, -2).numpy() for module in modules]


def gate_terms(model, network):
    """t of each image and channel from weights alone: a gate on a channel at a consumer scales the
    consumer's weights that read it, so its derivative is the sum of weight times gradient there."""
    weights = dict(model.named_parameters())
    terms = {group.name: np.zeros((len(X), len(group))) for group in network.groups}
    for image in range(len(X)):
        model.zero_grad()
        per_image_loss(model, image).backward()
        for group in network.groups:
            for member in group.with_role(Role.INPUT):
                weight = weights[member.tensor]
                product = (weight * weight.grad).detach().movedim(member.axis, 0).flatten(1).sum(1)
                rows = network.positions(group, member)
                terms[group.name][image] += product.double().numpy()[rows].sum(1)
    model.zero_grad(set_to_none=True)
    return terms


@pytest.mark.parametrize("model", [Residual, Plain], ids=lambda m: m.__name__)
def test_gates_are_those_of_one_backward_pass_an_image(model):
    model = model()
    network = sec.trace(model, X[:1])
    terms = gate_terms(model, network)
    found = score_many(network, ["taylor", "fisher"], data=(X, Y))
    for group in network.groups:
        t = terms[group.name]
        np.testing.assert_allclose(found["taylor"][group.name], np.abs(t).mean(0), rtol=1e-4)
        np.testing.assert_allclose(found["fisher"][group.name], (t**2).mean(0) / 2, rtol=1e-4)


def test_coupled_consumers_are_summed_before_they_are_squared():
    model = Residual()
    network = sec.trace(model, X[:1])
    terms = {"conv1": np.zeros((8, 6)), "last": np.zeros((8, 6))}
    for image in range(8):
        model.zero_grad()
        per_image_loss(model, image).backward()
        for name, rows in terms.items():
            weight = getattr(model, name).weight
            rows[image] = (weight * weight.grad).sum((0, 2, 3)).detach()
    together = ((terms["conv1"] + terms["last"]) ** 2).mean(0) / 2
    apart = (terms["conv1"] ** 2 + terms["last"] ** 2).mean(0) / 2
    found = score(network, "fisher", data=(X, Y))["stem"]
    np.testing.assert_allclose(found, together, rtol=1e-4)
    assert not np.allclose(found, apart, rtol=0.01)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("whole_heads", [True, False])
def test_gates_in_attention_are_finite_differences_of_weights_that_read(norm, whole_heads):
    """A gate is a factor on the weights that read; positions in a head are read by q k^T too."""
    model = Attention(norm, whole_heads=whole_heads).double()
    x = X.astype(np.float64)
    network = sec.trace(model, x[:1])
    gates = collect_statistics(network, Need.GATES, (x, Y)).gates

    def loss(layer, columns, factor):
        other = copy.deepcopy(model)
        with torch.no_grad():
            getattr(other, layer).weight[:, columns] *= factor
            if layer == "out" and len(columns) == 2:  # a position in each of the two heads
                other.qkv.weight[columns] *= factor  # the rows that make q come first
                other.qkv.bias[columns] *= factor
            outputs = other(torch.from_numpy(x))
        return F.cross_entropy(outputs, torch.from_numpy(Y), reduction="sum").item()

    checked = []
    for group in network.groups:
        readers = group.with_role(Role.INPUT)
        if [member.tensor for member in readers] not in (["out.weight"], ["down.weight"]):
            continue
        checked.append((len(group), readers[0].each))
        for atom, columns in zip(group.channels, network.positions(group, readers[0]), strict=True):
            up, down = (loss(readers[0].layer, columns, 1 + step) for step in (1e-5, -1e-5))
            assert gates.signed[atom] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)
    assert sorted(checked) == [(2, 4), (4, 2), (10, 1)]


@pytest.mark.parametrize("model", [Residual, Grouped, Attention], ids=lambda m: m.__name__)
def test_a_batch_is_its_images_one_by_one(model):
    network = sec.trace(model(), X[:1])
    together = collect_statistics(network, Need.GATES, (X, Y)).gates
    apart = collect_statistics(
        network, Need.GATES, [(X[i : i + 1], Y[i : i + 1]) for i in range(8)]
    ).gates
    for name in ("signed", "absolute", "squares"):
        one, other = getattr(together, name), getattr(apart, name)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_fisher_and_the_oracle_do_not_mind_a_change_of_scale_but_l1_does():
    model = Plain()
    other = copy.deepcopy(model)
    with torch.no_grad():
        # The filter by 4, its statistics to match, then the channel by 8 and its readers by 1 / 8.
        norm, bias = other.norm1, other.conv1.bias
        other.conv1.weight[1] *= 4
        norm.running_mean[1] = (norm.running_mean[1] - bias[1]) * 4 + bias[1]
        before = norm.running_var[1] + norm.eps
        norm.running_var[1] = before * 16 - norm.eps
        norm.weight[1] *= 8
        norm.bias[1] *= 8
        other.conv2.weight[:, 1] /= 8
        x = torch.from_numpy(X)
        torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-5)
    for name in ("fisher", "taylor", "oracle"):
        one, two = (score(sec.trace(m, X[:1]), name, data=(X, Y))["conv1"] for m in (model, other))
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-5)
    one, two = (score(sec.trace(m, X[:1]), "l1")["conv1"] for m in (model, other))
    assert two[1] == pytest.approx(4 * one[1], rel=1e-5)


def test_activation_statistics_are_those_a_hook_sees():
    model = Residual()
    network = sec.trace(model, X[:1])
    h, *stream = record_inputs(model, "conv2", "conv1", "last")
    found = score_many(network, ["apoz", "mean_activation", "std_activation"], data=X)
    np.testing.assert_allclose(found["apoz"]["conv1"], (h != 0).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["mean_activation"]["conv1"], np.abs(h).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["std_activation"]["conv1"], h.std(0), rtol=1e-5)
    np.testing.assert_allclose(
        found["mean_activation"]["stem"], np.mean([np.abs(s).mean(0) for s in stream], 0), rtol=1e-5
    )
    np.testing.assert_allclose(
        found["std_activation"]["stem"], np.sqrt(sum(s.var(0) for s in stream) / 2), rtol=1e-5
    )
    flaps = sum(
        s.var(0) * (getattr(model, name).weight.detach().double() ** 2).sum((0, 2, 3)).numpy()
        for s, name in zip(stream, ("conv1", "last"), strict=True)
    )
    expected = (flaps - flaps.mean()) / flaps.std()
    np.testing.assert_allclose(score(network, "fluctuation", data=X)["stem"], expected, rtol=1e-4)


def test_consumers_of_the_same_values_count_once():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 4, 1),
                nn.Conv2d(4, 4, 3, padding=1),
            )

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return (self.left(x) + self.right(x)).mean((2, 3))

    model = Fork()
    readings = collect_statistics(sec.trace(model, X[:1]), Need.ACTIVATIONS, X).readings
    of_stem = [r for r in readings if len(r.units) == 4]
    assert len(of_stem) == 1
    both = sum((m.weight.detach() ** 2).sum((0, 2, 3)) for m in (model.left, model.right))
    np.testing.assert_allclose(of_stem[0].reader_norm, both, rtol=1e-5)


def test_squared_gradients_are_those_of_every_image_alone():
    model = Residual()
    network = sec.trace(model, X[:1])
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in range(8):
        model.zero_grad()
        per_image_loss(model, image).backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad**2 / 8
    model.zero_grad(set_to_none=True)
    found = collect_statistics(network, Need.CURVATURE, (X, Y)).curvature
    assert found.keys() == sums.keys()
    for name, expected in sums.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-9)
    weights = dict(model.named_parameters())
    saliency = {
        name: 0.5 * (squares * weights[name] ** 2).detach() for name, squares in sums.items()
    }
    leaves = (("conv1.weight", 0), ("norm1.weight", 0), ("norm1.bias", 0), ("conv2.weight", 1))
    conv1 = sum(saliency[name].movedim(axis, 0).reshape(8, -1).sum(1) for name, axis in leaves)
    np.testing.assert_allclose(score(network, "obd", data=(X, Y))["conv1"], conv1, rtol=1e-3)


def test_cosine_on_data_is_that_of_centred_values():
    model = Plain()
    network = sec.trace(model, X[:1])
    grams = collect_statistics(network, Need.GRAMS, X).grams["conv1"]
    (h,) = record_inputs(model, "conv2")
    h = h - h.mean(0)
    assert len(grams) == 1
    np.testing.assert_allclose(grams[0].centred, h.T @ h, rtol=1e-6, atol=1e-6)


def test_a_loss_of_ones_own_needs_no_labels():
    network = sec.trace(Plain(), X[:1])
    scores = score_many(
        network, ["taylor", "oracle"], data=X, loss=lambda out, _: out.square().sum(1)
    )
    assert (scores["taylor"]["conv1"] > 0).all()
    with pytest.raises(DataError, match="expected labels that are classes"):
        score(network, "critical", data=X, loss=lambda out, _: out.square().sum(1))


def test_a_model_whose_path_depends_on_its_input_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.one(x))
            return self.two(torch.tanh(x) if len(x) > 1 else x)

    network = sec.trace(Fickle(), X[:1, :, 0, 0])
    with pytest.raises(DataError, match="expected the forward pass that was traced"):
        score(network, "apoz", data=X[:, :, 0, 0])
