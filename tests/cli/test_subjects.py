"""Parsing the model, the data and the metric of a command line."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.cli.subjects import Naming, find_subject
from secateurs.errors import SecateursError
from support.shell import CNN

MINE = """
import numpy as np
import torch

def line():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))

def points():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = x.sum(1, keepdims=True)
    return (x[:40], y[:40]), (x[40:], y[40:])
"""


@pytest.fixture
def mine(place):
    (place / "mine_subject.py").write_text(MINE)
    return "mine_subject.py"


def mean_squared_error(model, mine):
    inside = {}
    exec(MINE, inside)  # noqa: S102 - the same data
    x, y = map(torch.from_numpy, inside["points"]()[1])
    with torch.no_grad():
        return float(((model(x) - y) ** 2).mean())


def test_a_task_is_judged_by_its_metric_on_validation_data(mine):
    naming = Naming(f"{mine}:line", data=f"{mine}:points", task="regression", images=30)
    subject = find_subject(naming)
    assert sum(map(len, (inputs for inputs, _ in subject.calibration))) >= 30
    error = mean_squared_error(subject.model, mine)
    assert subject.judge(subject.model) == pytest.approx(error, rel=1e-5)
    assert subject.validation(subject.model) == pytest.approx(-error, rel=1e-5)
    shown = subject.compare(subject.model)
    assert shown.startswith("Mean squared error on 20 validation examples: ")
    small = sec.prune(subject.model, subject.example, sec.Budget(channels=0.5)).model
    assert subject.judge(small) == pytest.approx(mean_squared_error(small, mine), rel=1e-5)


def test_another_metric_may_be_named(mine):
    naming = Naming(f"{mine}:line", data=f"{mine}:points", task="regression", metric="mae")
    subject = find_subject(naming)
    inside = {}
    exec(MINE, inside)  # noqa: S102
    x, y = inside["points"]()[1]
    with torch.no_grad():
        given = subject.model(torch.from_numpy(x)).numpy()
    assert subject.judge(subject.model) == pytest.approx(np.abs(given - y).mean(), rel=1e-5)


def test_images_are_judged_by_accuracy():
    options = [f"{CNN[-1]}"] if "=" in CNN[-1] else []
    naming = Naming("vanilla_cnn", ["width=4", *options], data="digits", images=20)
    subject = find_subject(naming)
    assert subject.example.shape == (1, 1, 8, 8)
    assert 0 <= subject.judge(subject.model) <= 1
    assert "Accuracy on " in subject.compare(subject.model)


def test_without_data_nothing_can_be_told():
    subject = find_subject(Naming("vanilla_cnn", ["width=4"], shape="1x1x8x8", classes=10))
    assert subject.calibration is None
    assert subject.compare(subject.model) is None


def test_a_task_needs_data(mine):
    with pytest.raises(SecateursError, match=r"--data: expected a name; received none"):
        find_subject(Naming(f"{mine}:line", task="regression"))
    with pytest.raises(SecateursError, match="--images: expected a number of at least 1"):
        find_subject(Naming(f"{mine}:line", data="x", task="regression", images=0))
