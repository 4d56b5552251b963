"""The same tests for every registered criterion; none can be added without passing them."""

import copy
import warnings

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import CRITERIA, Need, score
from secateurs.errors import DataError, SecateursError
from support.small_networks import Attention, Grouped, Plain, Residual, images, labels

NAMES = list(CRITERIA)
MODELS = {
    "residual": Residual,
    "grouped": Grouped,
    "positions": Attention,
    "heads": lambda: Attention(whole_heads=True),
    "plain": Plain,
}
X, Y = images(), labels()


def scores_of(model, name, data=(X, Y), seed=0):
    network = sec.trace(model, X[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # apoz on GELU says so
        return score(network, name, data=data, seed=seed)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_one_finite_number_for_each_channel_and_the_same_again(name, model):
    network = sec.trace(MODELS[model](), X[:1])
    first = scores_of(network.source.model, name)
    again = scores_of(network.source.model, name)
    assert set(first) == {group.name for group in network.groups}
    for group in network.groups:
        assert first[group.name].shape == (len(group),)
        assert np.isfinite(first[group.name]).all()
        np.testing.assert_array_equal(first[group.name], again[group.name])


@pytest.mark.parametrize("name", NAMES)
def test_how_images_come_in_batches_does_not_matter(name):
    model = Residual()
    whole = scores_of(model, name)
    parts = scores_of(model, name, data=[(X[:3], Y[:3]), (torch.from_numpy(X[3:]), Y[3:])])
    for group, values in whole.items():
        np.testing.assert_allclose(values, parts[group], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_permuting_a_layers_filters_permutes_its_scores(name):
    model = Plain()
    other = copy.deepcopy(model)
    order = torch.randperm(5)
    with torch.no_grad():
        for module in (other.conv1, other.norm1):
            for tensor in module.state_dict().values():
                if tensor.dim():
                    tensor.copy_(tensor[order])
        other.conv2.weight.copy_(other.conv2.weight[:, order])
    before, after = scores_of(model, name), scores_of(other, name)
    np.testing.assert_allclose(after["conv1"], before["conv1"][order], rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(after["conv2"], before["conv2"], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random", "bn_scale")])
def test_every_tensor_coupled_to_a_channel_counts(name):
    """The stem and the block's second convolution both write the stream; so both move its ranks."""
    model = Residual()
    before = scores_of(model, name)["stem"]
    for layer in (model.stem, model.conv2):
        changed = copy.deepcopy(layer.weight.data)
        with torch.no_grad():
            layer.weight[2].add_(
                torch.linspace(-3, -1, layer.weight[2].numel()).view_as(layer.weight[2])
            )
        after = scores_of(model, name)["stem"]
        layer.weight.data.copy_(changed)
        assert not np.allclose(after, before, rtol=1e-3, atol=1e-7), layer


@pytest.mark.parametrize("name", [n for n in NAMES if CRITERIA[n].needs & Need.DATA])
def test_without_data_it_says_what_to_pass(name):
    network = sec.trace(Plain(), X[:1])
    with pytest.raises(
        DataError, match=rf"{name}: expected calibration data; received none.*data="
    ):
        score(network, name)


@pytest.mark.parametrize("name", [n for n in NAMES if CRITERIA[n].needs & Need.DATA])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((X[:, :2], Y), r"expected images of shape \(N, 3, 6, 6\).*received \(8, 2, 6, 6\)"),
        ((np.where(X > 2, np.nan, X), Y), "holds NaN"),
        ((X, Y[:5]), "5 labels for 8 images"),
        ([], "received no batch"),
        (((X * 255).astype(np.uint8), Y), "floating-point images"),
        (3, "received int"),
    ],
    ids=["shape", "nan", "too few labels", "empty", "integers", "a number"],
)
def test_bad_data_is_refused_in_one_clear_line(name, data, expected):
    network = sec.trace(Plain(), X[:1])
    with pytest.raises(DataError, match=expected) as raised:
        score(network, name, data=data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [n for n in NAMES if CRITERIA[n].needs & Need.LOSS])
def test_labels_are_asked_for_where_they_are_needed(name):
    network = sec.trace(Plain(), X[:1])
    with pytest.raises(DataError, match="expected labels; received images alone"):
        score(network, name, data=X)
    with pytest.raises(DataError, match="expected labels from 0 to 3"):
        score(network, name, data=(X, Y + 3))
    with pytest.raises(DataError, match="one loss for each image"):
        score(network, name, data=(X, Y), loss=lambda out, y: out.sum())


@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if CRITERIA[n].needs & Need.DATA and not CRITERIA[n].needs & Need.LOSS],
)
def test_labels_may_be_left_out_where_they_are_not_needed(name):
    model = Plain()
    alone, labelled = scores_of(model, name, data=X), scores_of(model, name)
    np.testing.assert_array_equal(alone["conv1"], labelled["conv1"])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_comes_back_exactly_as_it_was(name):
    model = Residual()
    model.train()
    model.norm1.eval()
    model.conv1.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    given = X.copy()
    scores_of(model, name, data=(given, Y))
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not model.conv1.weight.requires_grad
    assert torch.equal(model.stem.weight.grad, torch.ones_like(model.stem.weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "stem.weight")
    np.testing.assert_array_equal(given, X)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda facts: facts.weights, r"its code raised AttributeError: .*'weights' \(line \d+ of"),
        (lambda facts: {1: 2}, "expected 5 numbers for conv1, one a channel; received dict"),
    ],
    ids=["raises", "no numbers"],
)
def test_what_a_users_own_function_does_wrong_is_one_line(function, message):
    with pytest.raises(SecateursError, match=message) as caught:
        score(sec.trace(Plain(), X[:1]), function)
    assert "\n" not in str(caught.value)
