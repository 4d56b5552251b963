"""An empty working directory, with a cache of its own."""

import pytest

import secateurs as sec
from secateurs import models


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
