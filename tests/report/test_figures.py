from itertools import pairwise

import numpy as np
import pytest

from report.drawn import artist, boxes, colliding, overlaps, texts, title
from secateurs.errors import StudyError
from secateurs.report import (
    accuracy_over_batches,
    images_per_second,
    relative_size,
    widths,
)
from secateurs.study.history import History

ALL = (accuracy_over_batches, relative_size, images_per_second, widths)


def test_accuracy_line_is_the_history(make_history):
    history = make_history(12)
    axes = accuracy_over_batches(history).axes[0]
    expected = np.array(history.of("train", "prune")[:, ("batch", "accuracy")])
    assert np.array_equal(artist(axes, "accuracy").get_xydata(), expected)
    dips = np.array(history.of("prune")[:, ("batch", "accuracy")])
    assert np.array_equal(artist(axes, "after-cut").get_xydata(), dips)


@pytest.mark.parametrize("rounds", [0, 1, 12])
def test_one_upright_line_a_pruning(make_history, rounds: int):
    history = make_history(rounds, stopped=False)
    lines = artist(accuracy_over_batches(history).axes[0], "prunings").get_segments()
    assert [line[0][0] for line in lines] == history.of("prune")[:, "batch"]
    assert len(lines) == rounds


def test_dense_accuracy_and_dense_training_are_marked(make_history):
    history = make_history(3)
    axes = accuracy_over_batches(history).axes[0]
    assert set(artist(axes, "dense").get_ydata()) == {history[-1, "dense_accuracy"]}
    assert artist(axes, "dense-training").get_extents().width > 0
    assert artist(axes, "dense-training").get_width() == history.of("prune")[0, "batch"]
    assert "dense training\nfrom 39 %" in texts(axes.get_figure())


def test_best_model_is_ringed_where_its_accuracy_was_reached(make_history):
    history = make_history(5, best_round=4)
    figure = accuracy_over_batches(history)
    x, y = artist(figure.axes[0], "best").get_xydata()[0]
    at = [(one["batch"], one["accuracy"]) for one in history.of("train") if one["round"] == 4]
    assert (x, y) == at[-1]
    assert any(caption.startswith("best: round 4\n") for caption in texts(figure))
    running = accuracy_over_batches(make_history(5, stopped=False)).axes[0]
    assert not [one for one in running.get_children() if one.get_gid() == "best"]


def test_deep_dips_are_cut_off_and_said(make_history):
    history = make_history(12, deepest=0.6)
    figure = accuracy_over_batches(history)
    axes = figure.axes[0]
    bottom = axes.get_ylim()[0]
    lowest = min(history.of("prune")[:, "accuracy"])
    assert lowest < bottom
    assert bottom > 0.6
    assert any(f"at worst {100 * lowest:.1f} %" in caption for caption in texts(figure))
    below = [one["batch"] for one in history.of("prune") if one["accuracy"] < bottom]
    assert list(artist(axes, "after-cut-below").get_xdata()) == below


def test_shallow_dips_are_all_shown(make_history):
    history = make_history(12, deepest=0.05)
    axes = accuracy_over_batches(history).axes[0]
    low, high = axes.get_ylim()
    shown = [one["accuracy"] for one in history.of("train", "prune") if one["round"]]
    assert low < min(shown) < max(shown) < high


def test_sizes_fall_in_steps_at_the_cuts(make_history):
    history = make_history(6)
    axes = relative_size(history).axes[0]
    cuts = history.of("prune")
    for field in ("params", "macs"):
        line = artist(axes, field)
        left = [cut / history[0, field] for cut in cuts[:, field]]
        assert line.get_drawstyle() == "steps-post"
        assert list(line.get_ydata()) == pytest.approx([1, *left, left[-1]])
        assert list(line.get_xdata()) == [0, *cuts[:, "batch"], history[-1, "batch"]]


def test_speeds_are_the_history_with_their_spread(make_history):
    history = make_history(6)
    axes = images_per_second(history).axes[0]
    line, _, (bars,) = axes.containers[0]
    speeds = history.of("speed")
    assert np.array_equal(line.get_xydata(), np.array(speeds[:, ("round", "ratio")]))
    spans = [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
    assert np.allclose(spans, speeds[:, ("low", "high")])
    removed = 100 * (1 - history.of("prune")[-1, "params"] / history[0, "params"])
    assert axes.get_xticklabels()[-1].get_text() == f"6\n{removed:.0f} %"


def test_each_setting_of_speed_is_a_line(make_history):
    history = make_history(2, stopped=False)
    for record in list(history.of("speed")):
        history.append(**{**record, "batch_size": 1, "ratio": 1.3, "low": 1.2, "high": 1.4})
    figure = images_per_second(history)
    names = [container.get_label() for container in figure.axes[0].containers]
    assert names == ["cpu, 2 threads, batch of 64", "cpu, 2 threads, batch of 1"]
    assert overlaps(figure) == []


def test_widths_before_and_after(make_history):
    history = make_history(6, best_round=5)
    axes = widths(history).axes[0]
    before, after = history[0, "widths"], history.of("prune")[4, "widths"]
    assert list(artist(axes, "before").get_xdata()) == list(before.values())
    assert list(artist(axes, "after").get_xdata()) == list(after.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == list(before)
    assert f"{before['conv1']} → {after['conv1']}" in texts(axes.get_figure())


def test_widths_of_many_layers_stand_in_columns(make_history):
    layers = {f"layer{number // 50}.{number % 50}.conv": 64 for number in range(200)}
    history = make_history(2, layers)
    figure = widths(history)
    named = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert named == list(layers)
    assert len(figure.axes) == 3
    assert overlaps(figure) == []


def test_layer_that_is_gone(make_history):
    history = make_history(2)
    del history.of("prune")[-1, "widths"]["conv1"]
    axes = widths(history).axes[0]
    assert "64 → 0" in texts(axes.get_figure())
    assert artist(axes, "after").get_xdata()[0] == axes.get_xlim()[0]


def test_titles_state_the_finding(make_history):
    history = make_history(31)
    cut = history.of("prune")[-1]
    removed = 100 * (1 - cut["params"] / history[0, "params"])
    assert title(accuracy_over_batches(history)).startswith(f"{removed:.1f} % of the parameters")
    assert title(relative_size(history)).startswith(f"{100 - removed:.1f} % of the parameters")
    assert title(images_per_second(history)).startswith("65.0 % more images a second")
    before, after = sum(history[0, "widths"].values()), sum(cut["widths"].values())
    assert title(widths(history)).startswith(f"{before:,} → {after:,} filters")


@pytest.mark.parametrize(
    "case",
    [
        {"rounds": 0, "speeds": False, "stopped": False},
        {"rounds": 1},
        {"rounds": 12, "best_round": 9, "deepest": 0.3},
        {"rounds": 3, "best_round": 0},
        {"rounds": 31},
        {"rounds": 40, "stopped": False, "deepest": 0.6},
    ],
    ids=str,
)
@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_no_text_overlaps_another_or_leaves_the_page(make_history, draw, case: dict):
    figure = draw(make_history(**case))
    named = boxes(figure)
    assert colliding(named) == []
    width, height = figure.get_size_inches() * figure.dpi
    for caption, (left, bottom, right, top) in named:
        assert left >= -0.5, caption
        assert bottom >= -0.5, caption
        assert right <= width + 0.5, caption
        assert top <= height + 0.5, caption


def test_model_trained_before_and_missing_accuracies(make_history):
    history = make_history(3, stopped=False)
    part = History(one for one in history if one["kind"] != "train" or one["round"])
    part.of("prune")[0]["accuracy"] = None
    axes = accuracy_over_batches(part).axes[0]
    assert "dense-training" not in [one.get_gid() for one in axes.get_children()]
    assert len(artist(axes, "prunings").get_segments()) == 2


def test_no_accuracy_and_no_speed_are_said(make_history):
    assert "No accuracy has been recorded yet." in texts(accuracy_over_batches(make_history(0)[:1]))
    assert title(images_per_second(make_history(2, speeds=False))) == "No speed measured"


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_history_without_dense_model_is_refused(draw):
    with pytest.raises(StudyError, match="nothing to compare with"):
        draw(History())


def test_ticks_of_accuracy_do_not_pass_one_hundred_percent(make_history):
    axes = accuracy_over_batches(make_history(12, deepest=0.3)).axes[0]
    ticks = axes.get_yticks()
    assert max(ticks) <= 1
    assert all(later > earlier for earlier, later in pairwise(ticks))
