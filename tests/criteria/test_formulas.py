"""Each formula against numbers worked out another way; Torch-Pruning where it agrees."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.statistics import ChannelIndex, Gates
from secateurs.channels.equations import Equations
from secateurs.criteria import (
    CRITERIA,
    Ablation,
    Need,
    collect_statistics,
    critical_channels,
    redundant,
    score,
)
from secateurs.criteria.redundancy import score_by_similarity_
from secateurs.errors import DataError, SecateursError
from support.small_networks import Plain, Residual, images, labels

X, Y = images(), labels()


class TwoLayers(nn.Module):
    """One convolution of 1 x 1 whose filters are written by hand, and one that reads it."""

    def __init__(self, filters):
        super().__init__()
        filters = torch.tensor(filters)
        self.conv = nn.Conv2d(filters.shape[1], len(filters), 1, bias=False)
        self.conv.weight.data = filters[:, :, None, None].clone()
        self.head = nn.Conv2d(len(filters), 2, 1)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)))


def by_hand(filters, name):
    x = torch.zeros(1, len(filters[0]), 2, 2)
    return score(sec.trace(TwoLayers(filters), x), name)["conv"]


FILTERS = [[3.0, 4.0], [-3.0, -4.0], [0.0, 2.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [7, 7, 2, 1]),
        ("l1_mean", [3.5, 3.5, 1, 0.5]),
        ("l2", [5, 5, 2, 1]),
        ("linf", [4, 4, 2, 1]),
        (
            "geometric_median",
            [
                10 + np.sqrt(13) + np.sqrt(20),
                10 + np.sqrt(45) + np.sqrt(32),
                np.sqrt(13) + np.sqrt(45) + np.sqrt(5),
                np.sqrt(20) + np.sqrt(32) + np.sqrt(5),
            ],
        ),
        ("lamp", [25 / 50, 25 / 50, 4 / 54, 1 / 55]),
        # |cos|: 1 of the first two, 0.8 of these with the third, 0.6 with the last; else 0
        ("whc", [5 * (2 * 0.2 + 0.4), 5 * (2 * 0.2 + 0.4), 2 * (10 * 0.2 + 1), 10 * 0.4 + 2]),
        # 2 goes first (equal to 1 but for its sign), then 3 (0.8 with 1), then 4 (0.6 with 1)
        ("cosine", [1, 0, 0.2, 0.4]),
    ],
)
def test_by_hand(name, expected):
    np.testing.assert_allclose(by_hand(FILTERS, name), expected, rtol=1e-6, atol=1e-9)


def test_batch_norm_scales():
    model = Plain()
    network = sec.trace(model, X[:1])
    np.testing.assert_allclose(
        score(network, "bn_scale")["conv1"], model.norm1.weight.detach().abs(), rtol=1e-6
    )
    residual = Residual()
    with torch.no_grad():
        residual.norm2.weight[:3] *= -1
    stream = score(sec.trace(residual, X[:1]), "bn_scale")["stem"]
    both = (residual.norm0.weight.abs() + residual.norm2.weight.abs()) / 2
    np.testing.assert_allclose(stream, both.detach(), rtol=1e-6)


def test_coupled_filters_are_one_long_filter():
    model = Residual()
    network = sec.trace(model, X[:1])
    rows = torch.cat([model.stem.weight.flatten(1), model.conv2.weight.flatten(1)], 1).detach()
    np.testing.assert_allclose(score(network, "l2")["stem"], rows.norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(score(network, "l1_mean")["stem"], rows.abs().mean(1), rtol=1e-5)
    np.testing.assert_allclose(score(network, "linf")["stem"], rows.abs().amax(1), rtol=1e-5)
    np.testing.assert_allclose(
        score(network, "geometric_median")["stem"], torch.cdist(rows, rows).sum(1), rtol=1e-4
    )


# -- redundancy


def test_one_of_each_similar_set_stays_whatever_its_scale():
    base = np.random.default_rng(0).normal(size=(3, 6))
    filters = np.concatenate([base, 2 * base, -0.5 * base])
    scores = by_hand(filters.astype(np.float32).tolist(), "cosine")
    assert (scores < 1e-5).sum() == 6
    assert set(np.flatnonzero(scores > 1e-5)) == {3, 4, 5}  # the largest of each


def test_scores_are_similarities_at_the_moment_of_dropping():
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 4))
    rows[5] = 0  # nothing at all is the first to go
    scores = score_by_similarity_(rows @ rows.T)
    left = list(range(12))
    norms = np.linalg.norm(rows, axis=1)
    for dropped in np.argsort(scores, kind="stable")[:-1].tolist():
        cosine = np.array(
            [
                [abs(rows[i] @ rows[j]) / max(norms[i] * norms[j], 1e-300) for i in left]
                for j in left
            ]
        )
        cosine[[i for i, at in enumerate(left) if norms[at] == 0]] = 1
        np.fill_diagonal(cosine, -1)
        assert scores[dropped] == pytest.approx(1 - cosine.max(), abs=1e-9)
        left.remove(dropped)
    assert scores[5] == 0


def test_a_similarity_is_an_alternative_to_an_amount():
    model = Plain(width=8)
    with torch.no_grad():
        model.conv1.weight[3] = model.conv1.weight[1] * 0.7
        model.conv1.weight[6] = -model.conv1.weight[2] * 1.5
    network = sec.trace(model, X[:1])
    gone = redundant(network, 0.95)
    assert {name: channels.tolist() for name, channels in gone.items()} == {"conv1": [2, 3]}
    scores = score(network, "cosine")
    planned = sec.plan(network, scores, threshold=0.05, scope="network", floor=1)
    assert {name: list(cut.removed) for name, cut in planned.channels.items()} == {"conv1": [2, 3]}
    assert sec.report_of(sec.apply(model, network.cut(gone), X[:1])).proof.holds
    with pytest.raises(DataError, match=r"similarity in \(0, 1\)"):
        redundant(network, 1.5)


def test_on_white_noise_outputs_are_as_similar_as_filters():
    """Why random inputs need not be drawn: their expectation is known."""
    filters = np.random.default_rng(1).normal(size=(5, 4))
    noise = np.random.default_rng(2).normal(size=(200_000, 4))
    outputs = noise @ filters.T
    outputs -= outputs.mean(0)
    np.testing.assert_allclose(
        score_by_similarity_(outputs.T @ outputs),
        score_by_similarity_(filters @ filters.T),
        atol=0.01,
    )


# -- critical channels


def ablation(correct, images=(10, 10), loss=None):
    correct = np.array(correct, float)
    return Ablation(
        {"g": np.zeros_like(correct) if loss is None else np.array(loss, float)},
        {"g": correct},
        np.array(images),
        1.0,
        np.array(images),
        {"g": np.full(len(correct), sum(images))},
        {"g": np.zeros(len(correct))},
        {"g": np.zeros(len(correct))},
    )


def test_the_union_of_the_best_of_each_class_stays():
    found = ablation([[-5, 0], [-1, -2], [0, -6], [0, 0], [-2, -1]])
    assert found.critical("g", 1).tolist() == [0, 2]
    assert found.critical("g", 2).tolist() == [0, 1, 2, 4]
    network = SimpleNamespace()
    network.groups = [type("G", (), {"name": "g", "__len__": lambda self: 5})()]
    unchecked = critical_channels.__wrapped__  # of a network that is none
    assert unchecked(network, found, best=1)["g"].tolist() == [1, 3, 4]
    np.testing.assert_allclose(found.accuracy_loss("g")[0], [0.5, 0])
    with pytest.raises(SecateursError, match="at least one"):
        found.critical("g", 0)


def test_a_channel_is_as_critical_as_to_the_class_that_needs_it_most():
    found = ablation([[-5, -3], [-1, -2], [4, 0]], images=(10, 10))
    facts = SimpleNamespace(ablation=found, group=SimpleNamespace(name="g"))
    np.testing.assert_allclose(CRITERIA["critical"].function(facts), [0.5, 0.2, 0])


def test_ties_of_accuracy_are_broken_by_loss_but_never_more_than_ties():
    loss = [[1, 0], [5, 0], [900, 900], [0, 0]]
    found = ablation([[-1, 0], [-1, 0], [0, 0], [0, -1]], loss=loss)
    damage = found.damage("g")
    assert damage[1, 0] > damage[0, 0] > damage[2, 0] > damage[3, 0]
    assert damage[3, 1] > damage[2, 1]


# -- sums


def test_a_unit_of_two_channels_counts_for_both():
    equations = Equations()
    cells = equations.units(6)
    rows, columns = equations.factor(cells, (2, 3))
    solution = equations.solve()
    gates = Gates(solution)
    values = np.arange(12.0).reshape(2, 6)
    terms = gates.add([(cells, values), (columns, np.ones((2, 3)))])
    by_row = solution.atoms[rows, 0]
    np.testing.assert_allclose(terms[:, by_row], values.reshape(2, 2, 3).sum(2))
    by_column = solution.atoms[columns, 0]
    np.testing.assert_allclose(terms[:, by_column], values.reshape(2, 2, 3).sum(1) + 1)
    np.testing.assert_allclose(gates.squares[by_row], (values.reshape(2, 2, 3).sum(2) ** 2).sum(0))


def test_parts_that_differ_in_size_are_not_a_table():
    part = ChannelIndex(np.array([0, 1, 2]), np.array([0, 0, 1]), 2)
    assert part.rows is None
    np.testing.assert_allclose(part.total(np.array([1.0, 2.0, 4.0])), [3, 4])


# -- Torch-Pruning 1.6.1: where it agrees, and its three defects


@pytest.fixture
def pruning():
    return pytest.importorskip("torch_pruning")


def their_scores(pruning, importance, model, layer, x):
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    group = graph.get_pruning_group(
        layer, pruning.prune_conv_out_channels, idxs=list(range(layer.out_channels))
    )
    return importance(group).detach().numpy()


@pytest.mark.parametrize(("name", "power", "root"), [("l1", 1, 1), ("l2", 2, 2)])
def test_magnitudes_agree_with_torch_pruning(pruning, name, power, root):
    model = Plain()
    theirs = their_scores(
        pruning,
        pruning.importance.GroupMagnitudeImportance(
            p=power, group_reduction="first", normalizer=None, bias=False
        ),
        model,
        model.conv1,
        torch.from_numpy(X[:1]),
    )
    ours = score(sec.trace(model, X[:1]), name)["conv1"]
    np.testing.assert_allclose(ours, theirs ** (1 / root), rtol=1e-5)


def test_opposite_filters_are_far_apart_here_and_the_same_in_torch_pruning(pruning):
    model = TwoLayers([[1.0, 2.0, -1.0], [-1.0, -2.0, 1.0]])
    x = torch.zeros(1, 3, 2, 2)
    theirs = their_scores(
        pruning,
        pruning.importance.FPGMImportance(p=2, group_reduction="first", normalizer=None),
        model,
        model.conv,
        x,
    )
    ours = score(sec.trace(model, x), "geometric_median")["conv"]
    np.testing.assert_allclose(theirs, 0, atol=1e-6)
    np.testing.assert_allclose(ours, 2 * np.sqrt(6), rtol=1e-6)


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
    theirs = their_scores(pruning, importance, model, model.conv1, torch.from_numpy(X[:1]))
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
    before = their_scores(pruning, taylor, model, model.conv1, x)
    model.norm1.weight.grad *= 100
    model.norm1.bias.grad *= 100
    after = their_scores(pruning, taylor, model, model.conv1, x)
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


def test_criteria_import_no_framework():
    root = Path(sys.modules["secateurs.criteria"].__file__).parent
    for file in root.glob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import)]
        imported = {alias.name for node in nodes for alias in node.names}
        assert not imported & {"torch", "keras"}, file
    assert len(CRITERIA) >= 19


def test_whc_by_blocks_is_whc_of_all_pairs(monkeypatch):
    from secateurs.criteria import similarity

    filters = np.random.default_rng(5).normal(size=(13, 7))
    norms = np.linalg.norm(filters, axis=1)
    cosines = np.abs(filters @ filters.T / np.outer(norms, norms))
    wanted = norms * ((1 - cosines) @ norms)
    monkeypatch.setattr(similarity, "ROWS", 4)
    monkeypatch.setattr(similarity, "stack_filters", lambda facts: filters)
    assert similarity.whc(None) == pytest.approx(wanted)
