"""A metric's name, direction and format, wherever a study is shown."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.cli.show import RoundTable
from secateurs.report import accuracy_over_batches, page, summarise
from secateurs.study.history import History
from secateurs.training.metric import Metric

X = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
Y = (100 * X[:, :1]).astype(np.float32)  # so that the error is far above 1


@pytest.fixture(scope="module")
def history():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    done = sec.iterate(
        model, (X, Y), (X, Y), (X, Y), task="regression", metric="mae", step=0.3,
        training=sec.Training(fine_tune_batches=4, batch_size=8, learning_rate=1e-4),
        stop=sec.Stop(rounds=2, tolerance=0.9), measure_speed=False,
    )  # fmt: skip
    return done.history


def test_records_hold_the_metric_in_its_own_units(history):
    described = {"name": "mean absolute error", "higher_is_better": False, "is_share": False}
    assert history[0]["metric"] == described
    assert all("accuracy" not in name for record in history for name in record)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    torch.manual_seed(0)
    for layer in (model[0], model[2]):
        layer.reset_parameters()
    with torch.no_grad():
        error = float((model(torch.tensor(X)) - torch.tensor(Y)).abs().mean())
    assert error > 1
    for stop in ("dense_value", "dense_test_value"):
        assert history.last("stop")[stop] == pytest.approx(error, rel=1e-5)


def test_a_metric_where_lower_is_better_is_never_a_negative_percentage(history, tmp_path, capsys):
    summary, end = summarise(history), history.last("stop")
    assert summary.metric == Metric("mean absolute error", False, False)
    assert summary.accuracy == end["value"] > 0
    text = page.write(history, tmp_path).read_text()
    table = RoundTable(None)
    for record in history:
        table.recorded(record)
    printed = capsys.readouterr().out
    value = f"{history.of('train')[0]['value']:.4g}"
    for shown in (text, printed, summary.headline()):
        assert f"-{value}" not in shown
        assert f"\N{MINUS SIGN}{value}" not in shown
    assert "Validation mean absolute error" in text
    assert f"dense {value}" in text or not summary.best.number
    assert value in printed
    assert "accuracy" not in printed.splitlines()[0].split("after cut")[1]


def record(kind, number, batch, value):
    made = {"kind": kind, "round": number, "batch": batch, "value": value}
    cost = {"params": 100 - 9 * number, "macs": 90, "bytes": 80, "channels": 7, "widths": {}}
    return made | (cost if kind in ("dense", "prune") else {})


def test_the_figure_of_a_perplexity_shows_what_is_best_and_not_the_worst_cut():
    metric = {"name": "perplexity", "higher_is_better": False, "is_share": False}
    history = History(
        [
            record("dense", 0, 0, 0) | {"metric": metric},
            record("train", 0, 10, 12.0),
            record("prune", 1, 10, 9000.0),
            record("train", 1, 20, 12.5),
        ]
    )
    axes = accuracy_over_batches(history).axes[0]
    low, high = axes.get_ylim()
    assert low < 12.0
    assert 12.5 < high < 100
    edge = next(line for line in axes.lines if line.get_gid() == "after-cut-below")
    assert edge.get_ydata().tolist() == [high]
    assert any("9000" in text.get_text() for text in axes.texts)
    assert "%" not in "".join(tick.get_text() for tick in axes.get_yticklabels())


def test_how_values_and_changes_are_written():
    assert Metric().text(0.933) == "93.3 %"
    assert Metric().change(0.93, 0.936) == "\N{MINUS SIGN}0.6 points"
    plain = Metric("perplexity", higher_is_better=False, is_share=False)
    assert (plain.text(12.3456), plain.change(12.5, 12.0)) == ("12.35", "+0.5")


def test_a_tolerance_is_in_the_units_of_the_metric():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        answers = model(torch.tensor(X)).numpy()  # so that the dense model's error is 0

    def iterate(tolerance):
        return sec.iterate(
            model, (X, answers), (X, answers), step=0.3,
            stop=sec.Stop(rounds=1, tolerance=tolerance),
            training=sec.Training(fine_tune_batches=1, learning_rate=1e-6), measure_speed=False,
            task="regression", metric="mae",
        ).history  # fmt: skip

    strict = iterate(1e-3)
    missed = strict.of("train")[-1]["value"]
    assert missed > 1e-3
    assert f"{missed:.4g} validation mean absolute error, 0.001 n" in strict.last("stop")["reason"]
    assert not strict.last("stop")["best_round"]
    assert iterate(missed + 1e-3).last("stop")["best_round"] == 1


def test_a_tolerance_above_one_is_refused_where_the_metric_is_a_share():
    with pytest.raises(sec.SecateursError, match=r"tolerance below 1.*received 5\.0"):
        sec.iterate(
            nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)),
            (X, np.arange(32) % 2),
            (X, np.arange(32) % 2),
            stop=sec.Stop(rounds=1, tolerance=5.0),
        )
