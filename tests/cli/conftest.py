"""An empty working directory with its own cache, and the files that tests put there."""

import uuid

import pytest

import secateurs as sec
from secateurs import models
from secateurs.study.directory import Study
from support.own_tasks import MINE
from support.shell import FACTORIES


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def weights(place):
    """A small network for digits, and its weights in a file."""
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    sec.save(model, "w.safetensors")
    return model


@pytest.fixture
def factories(place):
    """A module of models and data."""
    (place / "factories_of_the_test.py").write_text(FACTORIES)


@pytest.fixture
def without_drawing(monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: self.directory / "report" / "report.html")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a module of models and data for each ready task."""
    name = f"mine_{uuid.uuid4().hex}"  # modules are imported once
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return name
