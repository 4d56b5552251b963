"""Damaged files of sensitivities, latency models and histories raise our own errors."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.errors import SecateursError
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import TERMS, LatencyModel, Samples
from secateurs.planning.damage_curves import Sensitivity
from secateurs.study.history import History
from support.damaged import EXAMPLES, broken, change_value

SENSITIVITY = Sensitivity(
    {"a": np.array([0, 0.25, 0.5]), "b": np.array([0, 0.5])},
    {"a": np.array([1, 1.5, 2.5]), "b": np.array([1, 1.25])},
    {},
    "l1",
    64,
    "cafe",
)
LATENCY = LatencyModel.fit(
    Conditions(),
    1,
    2.5,
    Samples(
        np.arange(1.0, 1 + 3 * len(TERMS)).reshape(3, -1),
        np.array([[4.0, 8.0], [2.0, 8.0], [4.0, 3.0]]),
        np.array([1.0, 0.8, 0.5]),
        np.array([0.0, 0.01, 0.02]),
    ),
    8,
    {8: (0.6, 0.5), 1: (0.7, 0.5)},
)
HISTORY = History()
HISTORY.append("train", epoch=1, loss=0.5)
HISTORY.append("cut", round=1, macs=[4, 2])


def use_sensitivity(path):
    """Read it and ask it everything."""
    found = Sensitivity.load(path)
    str(found)
    for group in found.shares:
        assert np.isfinite(found.damage(group, np.linspace(0, 1, 5))).all()
    found.limits(0.1)
    assert found.curves.keys() == found.shares.keys()


def use_latency(path):
    """Likewise."""
    found = LatencyModel.from_json(path.read_text(errors="surrogateescape"))
    str(found)
    assert np.isfinite([found.median_error, found.largest_error, *found.costs]).all()


def use_history(path):
    """Likewise."""
    for record in History.load(path):
        assert isinstance(record["kind"], str)


@cache
def wholes(path):
    """(what is read, a whole file of it)."""
    SENSITIVITY.save(path / "whole.json")
    HISTORY.save(path / "whole.jsonl")
    return {
        use_sensitivity: (path / "whole.json").read_bytes(),
        use_latency: LATENCY.to_json().encode(),
        use_history: (path / "whole.jsonl").read_bytes(),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("use", [use_sensitivity, use_latency, use_history])
def test_whole_files_are_read(use, place):
    (place / "file").write_bytes(wholes(place)[use])
    use(place / "file")


def is_answered(use, path, content):
    """Whether it is read; our own error, on one line, is the only other answer."""
    path.write_bytes(content)
    try:
        use(path)
    except SecateursError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both are answers


@pytest.mark.parametrize("use", [use_sensitivity, use_latency])
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_values_changed(use, place, data):
    values = json.loads(wholes(place)[use])
    for _ in range(data.draw(st.integers(1, 3))):
        change_value(data.draw, values)
    is_answered(use, place / "file", json.dumps(values).encode())


@pytest.mark.parametrize("use", [use_sensitivity, use_latency, use_history])
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_bytes_changed(use, place, data):
    is_answered(use, place / "file", broken(data.draw, wholes(place)[use]))


@pytest.mark.parametrize("use", [use_sensitivity, use_latency, use_history])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_files_of_other_content_are_refused(use, place, content):
    (place / "file").write_bytes(content)
    if use is use_history and not content.endswith(b"\n"):
        content += b"\n" if content else b""
        (place / "file").write_bytes(content)
    if content:
        with pytest.raises(SecateursError):
            use(place / "file")
    else:
        is_answered(use, place / "file", content)
