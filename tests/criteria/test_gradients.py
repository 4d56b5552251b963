"""Saliencies from gradients, per image, against Torch-Pruning."""

import numpy as np
import torch
from torch.nn import functional as F

import secateurs as sec
from secateurs.criteria import (
    Need,
    collect_statistics,
    score,
)
from support.small_networks import Plain, images, labels
from support.torch_pruning import their_scores

X, Y = images(), labels()


def test_every_image_counts_here_and_the_last_alone_in_torch_pruning(pruning):
    model = Plain()
    importance = pruning.importance.GroupHessianImportance(group_reduction="first", normalizer=None)
    for image in range(4):
        model.zero_grad()
        F.cross_entropy(
            model(torch.from_numpy(X[image : image + 1])), torch.tensor([Y[image]])
        ).backward()
        importance.accumulate_grad(model)
    last = model.conv1.weight.grad.clone()
    theirs = their_scores(importance, model, model.conv1, torch.from_numpy(X[:1]))
    model.zero_grad(set_to_none=True)
    only_last = (model.conv1.weight**2 * last**2).flatten(1).sum(1).detach().numpy()
    np.testing.assert_allclose(theirs / theirs.sum(), only_last / only_last.sum(), rtol=1e-3)
    network = sec.trace(model, X[:1])
    ours = score(network, "obd", data=(X[:4], Y[:4]))["conv1"]
    just_last = score(network, "obd", data=(X[3:4], Y[3:4]))["conv1"]
    others = [score(network, "obd", data=(X[i : i + 1], Y[i : i + 1]))["conv1"] for i in range(4)]
    np.testing.assert_allclose(ours, np.mean(others, axis=0), rtol=1e-4)
    assert not np.allclose(ours, just_last, rtol=0.05)


def test_batch_normalisation_counts_here_and_is_dropped_in_torch_pruning(pruning):
    """Its Taylor score does not see batch normalisation; the saliency of what leaves does."""
    model = Plain()
    loss = F.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y))
    loss.backward()
    taylor = pruning.importance.GroupTaylorImportance(normalizer=None)
    x = torch.from_numpy(X[:1])
    before = their_scores(taylor, model, model.conv1, x)
    model.norm1.weight.grad *= 100
    model.norm1.bias.grad *= 100
    after = their_scores(taylor, model, model.conv1, x)
    np.testing.assert_array_equal(before, after)
    model.zero_grad(set_to_none=True)
    network = sec.trace(model, X[:1])
    ours = score(network, "obd", data=(X, Y))["conv1"]
    curved = collect_statistics(network, Need.CURVATURE, (X, Y)).curvature
    norm = sum(
        0.5 * curved[f"norm1.{name}"] * getattr(model.norm1, name).detach().numpy() ** 2
        for name in ("weight", "bias")
    )
    convolutions = sum(
        (0.5 * curved[f"{name}.weight"] * getattr(model, name).weight.detach().numpy() ** 2).sum(
            axis=tuple(at for at in range(4) if at != axis)
        )
        for name, axis in (("conv1", 0), ("conv2", 1))
    )
    bias = 0.5 * curved["conv1.bias"] * model.conv1.bias.detach().numpy() ** 2
    assert (norm > 0).any()
    np.testing.assert_allclose(ours, convolutions + norm + bias, rtol=1e-4)


def test_by_a_gate_for_each_image():
    """The derivative by a factor on each channel, from autograd, one image at a time."""
    model = Plain()
    products = []
    for image, label in zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True):
        gate = torch.ones(5, requires_grad=True)
        h = torch.relu(model.norm1(model.conv1(image[None]))) * gate[:, None, None]
        out = model.head(torch.relu(model.norm2(model.conv2(h))).mean((2, 3)))
        F.cross_entropy(out, label[None]).backward()
        products.append(gate.grad.double().numpy())
    network = sec.trace(model, X[:1])
    for name, expected in (
        ("taylor", np.abs(products).mean(0)),
        ("fisher", np.square(products).mean(0) / 2),
    ):
        found = score(network, name, data=(X, Y))["conv1"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)
