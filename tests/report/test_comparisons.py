import numpy as np
import pytest

from report.drawn import artist, overlaps, texts, title
from secateurs.criteria import Ablation
from secateurs.errors import DataError
from secateurs.report import (
    accuracy_against_removed,
    critical,
    critical_by_class,
    matrix,
    norm_histogram,
    sensitivity,
)
from secateurs.report.style import EDGE

REMOVED = np.array([0.0, 0.2, 0.45, 0.69])
APOZ = np.array([[0.76, 0.77, 0.775, 0.765], [0.77, 0.775, 0.785, 0.775]])
RANDOM = np.array([[0.76, 0.74, 0.62, 0.41], [0.76, 0.73, 0.60, 0.43]])


def strategies() -> dict:
    return {"apoz": (REMOVED, APOZ), "random": (0.9 * REMOVED, RANDOM)}


def test_strategies_are_drawn_as_mean_and_range_of_seeds():
    figure = accuracy_against_removed(strategies(), 0.765, "share of the weights removed")
    axes = figure.axes[0]
    assert np.allclose(artist(axes, "apoz").get_xydata(), np.c_[REMOVED, APOZ.mean(axis=0)])
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == APOZ.min()
    assert corners[:, 1].max() == APOZ.max()
    assert set(artist(axes, "dense").get_ydata()) == {0.765}
    assert title(figure) == "apoz keeps the dense accuracy up to 69.0 % removed"
    assert "Accuracy, mean and range of 2 seeds" in texts(figure)
    assert overlaps(figure) == []


def test_strategies_against_size_run_from_large_to_small():
    curves = {name: (10 * (1 - x), y) for name, (x, y) in strategies().items()}
    figure = accuracy_against_removed(curves, 0.765, "size in MB", unit="MB")
    left, right = figure.axes[0].get_xlim()
    assert left > 10
    assert right < 3.1
    assert title(figure) == "apoz keeps the dense accuracy down to 3.1 MB"


def test_points_that_only_some_seeds_have():
    accuracies = APOZ.copy()
    accuracies[0, 2], accuracies[:, 3] = np.nan, np.nan
    figure = accuracy_against_removed({"apoz": (REMOVED, accuracies)}, 0.9, "removed")
    drawn = artist(figure.axes[0], "apoz").get_xydata()
    assert np.allclose(drawn, [[0, 0.765], [0.2, 0.7725], [0.45, 0.785]])
    assert title(figure).startswith("All strategies lose accuracy, apoz least (")


def test_of_many_strategies_some_are_named():
    many = {f"s{n}": (REMOVED, APOZ - 0.01 * n * np.array([0, 1, 1, 1])) for n in range(9)}
    many["random"] = (REMOVED, APOZ - 0.02)
    figure = accuracy_against_removed(many, 0.765, "removed")
    colours = {name: artist(figure.axes[0], name).get_color() for name in many}
    named = {name for name, colour in colours.items() if colour != EDGE}
    assert named == {"s0", "s1", "s2", "s3", "random", "s8"}
    assert len({colours[name] for name in named}) == 6
    assert not any(text.startswith("s5") for text in texts(figure))
    assert overlaps(figure) == []


def test_what_each_class_needs_is_drawn_from_an_ablation():
    correct = np.array([[-4, 0, 0], [0, -1, 0], [0, 0, 0], [2, 0, 0]], float)
    loss = np.array([[8, 0, 0], [0, 4, 0], [1, 3, 0], [-2, 0, 0]], float)
    zeros = {"conv": np.zeros(4)}
    ablation = Ablation(
        {"conv": loss},
        {"conv": correct},
        np.array([8, 4, 0]),
        1.0,
        np.array([6, 3, 0]),
        {"conv": np.full(4, 12)},
        zeros,
        zeros,
    )
    figure = critical_by_class(ablation, ["cat", "dog", "none"])
    drawn = figure.axes[0].images[0].get_array()
    # Most needed on top; the class without images is left out; a gain is no need.
    np.testing.assert_allclose(drawn, [[0.5, 0], [0, 0.25], [0, 0], [0, 0]])
    assert title(figure).startswith("2 of 4 channels")
    drawn = critical_by_class(ablation, best=2).axes[0].images[0].get_array()
    assert {tuple(row) for row in np.asarray(drawn)} == {(1, 0), (0, 1), (1, 1), (0, 0)}
    kept = ablation.critical("conv", 2)
    assert int(np.asarray(drawn).any(axis=1).sum()) == len(kept) == 3


def test_histogram_counts_every_filter():
    layers = {"a": np.linspace(0, 1, 64), "b": np.linspace(0, 4, 36), "c": [np.nan, np.inf]}
    figure = norm_histogram(layers)
    axes = figure.axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 100
    middle = np.median(np.concatenate([layers["a"], layers["b"]]))
    assert artist(axes, "median").get_xdata()[0] == middle
    share = f"{100 * middle / 4:.1f} %"
    assert title(figure) == f"Half of the 100 filters have less than {share} of the largest norm"
    assert "Number of filters, over 3 layers" in texts(figure)
    assert title(norm_histogram({})) == "No norms"


def test_matrix_shows_every_value_and_leaves_out_what_is_not_there():
    values = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]])
    figure = matrix(values, ["conv1", "conv2"], "The finding")
    shown = figure.axes[0].images[0].get_array()
    assert np.array_equal(shown.filled(np.nan), values, equal_nan=True)
    assert shown.mask.sum() == 1
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["conv1", "conv2"]
    assert title(figure) == "The finding"


def test_matrix_of_many_layers_names_some():
    figure = matrix(np.ones((150, 4)), [f"layer{row}" for row in range(150)], "Many")
    assert len(figure.axes[0].get_yticklabels()) == 50
    assert overlaps(figure) == []


def test_matrix_without_a_label_for_each_row_is_refused():
    with pytest.raises(DataError, match=r"shape \(2, 3\) and 1 labels"):
        matrix(np.ones((2, 3)), ["only one"], "")


def test_most_sensitive_groups_are_named():
    amounts = np.array([0, 0.25, 0.5])
    curves = {f"conv{n}": (amounts, 0.95 - 0.01 * n * amounts) for n in range(12)}
    figure = sensitivity(curves)
    assert title(figure) == "conv11 is the most sensitive: \N{MINUS SIGN}5.5 points at 50 % removed"
    named = [name for name in curves if name in texts(figure)]
    assert named == ["conv8", "conv9", "conv10", "conv11"]
    for name, (x, y) in curves.items():
        assert np.allclose(artist(figure.axes[0], name).get_xydata(), np.c_[x, y])
    assert overlaps(figure) == []


def test_sensitivity_of_a_loss_is_its_rise():
    curves = {"a": ([0, 0.5], [0.1, 0.6]), "b": ([0, 0.5], [0.1, 0.2])}
    figure = sensitivity(curves, y_label="Loss", higher_is_better=False)
    assert title(figure) == "a is the most sensitive: loss +0.5 at 50 % removed"
    assert "Loss when one of 2 groups alone is pruned" in texts(figure)


def test_critical_channels_are_counted_and_put_on_top():
    needed = np.zeros((8, 3), dtype=bool)
    needed[[2, 5], [0, 1]] = True
    figure = critical({"conv1": needed, "conv2": np.ones((4, 3))}, ["cat", "dog", "car"])
    assert title(figure) == "6 of 12 channels matter to some class"
    first = figure.axes[0]
    assert first.get_title(loc="left") == "conv1: 2 of 8"
    assert np.array_equal(first.images[0].get_array()[:2], needed[[2, 5]])
    assert not first.images[0].get_array()[2:].any()
    assert [label.get_text() for label in first.get_xticklabels()] == ["cat", "dog", "car"]
    assert overlaps(figure) == []


def test_critical_threshold():
    values = np.array([[0.1, 0.0], [0.3, 0.0], [-0.2, 0.0]])
    assert title(critical({"a": values})).startswith("2 of 3 ")
    assert title(critical({"a": values}, threshold=0.2)).startswith("1 of 3 ")
