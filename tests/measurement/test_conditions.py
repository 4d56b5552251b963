"""The conditions of a timing, and whether they are available here."""

import numpy as np
import pytest

import secateurs as sec
from secateurs.measurement.conditions import Conditions, check_installed, machine


def test_conditions_are_checked_and_read_from_text():
    assert Conditions.from_text({"runtime": "openvino", "threads": "2"}).threads == 2
    with pytest.raises(sec.UnknownNameError, match="did you mean 'onnxruntime'"):
        Conditions(runtime="onnxruntim")
    for text in ("half", "²", "9" * 5000):  # a superscript, and more digits than int() takes
        with pytest.raises(sec.BudgetError, match="threads: expected a whole number above 0"):
            Conditions.from_text({"threads": text})
    with pytest.raises(sec.UnknownNameError, match="expected float32, float16 or bfloat16"):
        Conditions(dtype="int4")
    assert str(Conditions(runtime="eager", batch=2, threads=1)) == "eager, batch 2, 1 thread"


def test_a_runtime_that_is_missing_is_answered_with_the_command(monkeypatch):
    monkeypatch.setattr("secateurs.measurement.conditions.installed_version", lambda package: None)
    with pytest.raises(sec.UnknownNameError, match="pip install onnx onnxruntime"):
        check_installed("onnxruntime")


def test_the_machine_is_described_with_its_versions():
    assert {"processor", "cores", "numpy"} <= machine().keys()
    assert machine()["numpy"] == np.__version__


def test_an_unknown_device_is_refused():
    with pytest.raises(sec.UnknownNameError, match="device: expected cpu, cuda"):
        Conditions(device="nosuch")
    assert Conditions(device="cuda:1").device == "cuda:1"


@pytest.mark.parametrize(("name", "value"), [("threads", 10**7), ("batch", 10**12)])
def test_impossible_conditions_are_refused(name, value):
    """PyTorch ends the process where it is given millions of threads."""
    with pytest.raises(sec.BudgetError, match=f"{name}: expected at most .*; received 10*,"):
        Conditions(**{name: value})
