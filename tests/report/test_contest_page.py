"""Figures and page of a comparison, from invented results."""

import re

import numpy as np
import pytest

from report.drawn import artist
from secateurs.report import contest_page
from secateurs.report.contest_page import by_amount, curves, figures, headline


def job(strategy, amount, seed, accuracy, failure=""):
    return {
        "strategy": strategy,
        "amount": amount,
        "seed": seed,
        "params_removed": None if failure else amount + 0.01,
        "macs_removed": None if failure else amount,
        "bytes": 0 if failure else (1 - amount) * 4e6,
        "before": None if failure else accuracy / 2,
        "accuracy": None if failure else accuracy,
        "failure": failure,
        "caution": "",
    }


def mean(strategy, amount, accuracy, std, seeds=2):
    return {
        "strategy": strategy,
        "amount": amount,
        "seeds": seeds,
        "params_removed": amount,
        "macs_removed": amount,
        "bytes": 1e6,
        "before": accuracy / 2,
        "before_std": 0.0,
        "accuracy": accuracy,
        "accuracy_std": std,
        "seconds_to_choose": 1.0,
        "seconds_to_train": 2.0,
    }


@pytest.fixture
def results():
    return {
        "comparison": {
            "task": {"model": "resnet18", "data": "digits"},
            "judge_on": "test",
            "command": ["secateurs", "compare", "--model", "resnet18"],
            "seeds": 2,
        },
        "dense": [
            {"seed": s, "accuracy": a, "bytes": 4e6, "norms": {"conv": [1.0, 2.0]}}
            for s, a in ((0, 0.9), (1, 0.8))
        ],
        "jobs": [
            job("l1", 0.5, 0, 0.85),
            job("l1", 0.5, 1, 0.75),
            job("l1", 0.9, 0, 0.6),
            job("l1", 0.9, 1, 0.5, failure="no cut within the <floors>"),
            job("random", 0.5, 0, 0.7),
            job("random", 0.5, 1, 0.6),
        ],
        "summary": [
            mean("l1", 0.5, 0.8, 0.07),
            mean("l1", 0.9, 0.6, 0.0, seeds=1),
            mean("random", 0.5, 0.65, 0.07),
        ],
    }


def test_curves_begin_at_the_dense_model_and_have_gaps_where_nothing_came(results):
    amounts, accuracies = curves(results, "params_removed")["l1"]
    np.testing.assert_allclose(amounts, [[0, 0.51, 0.91], [0, 0.51, np.nan]])
    np.testing.assert_allclose(accuracies, [[0.9, 0.85, 0.6], [0.8, 0.75, np.nan]])
    sizes, _ = curves(results, "bytes")["random"]
    np.testing.assert_allclose(sizes, [[4, 2, np.nan], [4, 2, np.nan]])


def test_the_figures_are_the_documents_two_and_the_histogram(results):
    drawn = {name: figure for name, figure, _ in figures(results)}
    assert list(drawn) == ["accuracy-removed", "accuracy-size", "norms"]
    axes = drawn["accuracy-removed"].axes[0]
    np.testing.assert_allclose(
        artist(axes, "l1").get_xydata(), [[0, 0.85], [0.51, 0.8], [0.91, 0.6]]
    )
    np.testing.assert_allclose(artist(axes, "dense").get_ydata(), 0.85)


def test_the_headline_says_where_random_is_as_good():
    sure = [mean("l1", 0.5, 0.8, 0.01), mean("random", 0.5, 0.65, 0.01)]
    assert headline(sure, 0.85) == (
        "With 50 % of the parameters removed, l1 is best: 80.0 % after training (\N{MINUS SIGN}5.0 "
        "points). Random comes to 65.0 %."
    )
    close = [mean("l1", 0.5, 0.8, 0.01), mean("random", 0.5, 0.79, 0.01)]
    assert headline(close, 0.85).endswith("Random is not distinguishable from it with these seeds.")
    assert headline([mean("random", 0.5, 0.8, 0.01)], 0.8).startswith("With 50 %")
    assert headline([], 0.85) == "No job has finished."


def test_the_table_has_a_strategy_a_row_and_an_amount_a_column(results):
    columns, rows = by_amount(results["summary"], "accuracy")
    assert columns == ("strategy", "50 % removed", "90 % removed")
    assert rows == (
        ("l1", "80.0 \N{PLUS-MINUS SIGN} 7.0", "60.0"),
        ("random", "65.0 \N{PLUS-MINUS SIGN} 7.0", "\N{EN DASH}"),
    )


def test_the_page_needs_no_other_file_and_escapes_what_it_is_given(results, tmp_path):
    page = contest_page.write(results, tmp_path).read_text()
    assert "l1 at 90 %, seed 1: no cut within the &lt;floors&gt;" in page
    assert "secateurs compare --model resnet18" in page
    assert page.count("<figure") == 3
    images = re.findall(r'<img src="([^"]{30})', page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)


def test_nothing_done_yet_is_a_page_too(results, tmp_path):
    nothing = results | {"jobs": [], "summary": []}
    page = contest_page.write(nothing, tmp_path).read_text()
    assert "No job has finished." in page
