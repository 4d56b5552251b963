import csv
import io
import json

import numpy as np
import pytest
import torch

import secateurs as sec
from comparison.conftest import settings_of
from secateurs import models
from secateurs.comparison import (
    Results,
)


def dense_model(directory, seed=0):
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(model, directory / "dense" / f"seed-{seed}.safetensors").eval()


def test_tables_hold_mean_and_spread_over_seeds(comparison_run):
    results, directory = comparison_run
    files = [json.loads(path.read_text()) for path in (directory / "jobs").glob("*.json")]
    accuracies = [
        one["accuracy"] for one in files if (one["strategy"], one["amount"]) == ("l1", 0.3)
    ]
    assert len(accuracies) == 2
    summary = list(csv.DictReader(io.StringIO((directory / "summary.csv").read_text())))
    row = next(r for r in summary if (r["strategy"], float(r["amount"])) == ("l1", 0.3))
    assert float(row["accuracy"]) == pytest.approx(np.mean(accuracies))
    assert float(row["accuracy_std"]) == pytest.approx(np.std(accuracies, ddof=1))
    rows = list(csv.DictReader(io.StringIO((directory / "results.csv").read_text())))
    assert sorted(float(r["accuracy"]) for r in rows) == sorted(one["accuracy"] for one in files)
    assert json.loads((directory / "results.json").read_text())["summary"][0]["seeds"] == 2
    shown = f"{100 * np.mean(accuracies):.1f} +- {100 * np.std(accuracies, ddof=1):.1f}"
    assert shown in str(results)


def test_norms_are_those_of_the_dense_model(comparison_run):
    _, directory = comparison_run
    dense = json.loads((directory / "dense" / "seed-0.json").read_text())
    model = dense_model(directory)
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    }
    assert set(dense["norms"]) == set(weights)
    for name, weight in weights.items():
        expected = weight.detach().abs().flatten(1).mean(1).numpy()
        np.testing.assert_allclose(dense["norms"][name], expected, rtol=1e-5)


def test_results_of_nothing_are_empty_tables():
    nothing = Results(settings_of(), [], [])
    assert nothing.to_csv() == ""
    assert nothing.summary == []
