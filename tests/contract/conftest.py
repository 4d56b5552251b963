"""The contract tests run for PyTorch and for Keras, on the backend in KERAS_BACKEND only."""

import pytest

from contract import backend


def pytest_configure(config):
    backend.prepare(config)


@pytest.fixture(autouse=True, scope="session")
def keras_backend():
    return backend.load_backend()


@pytest.fixture(autouse=True)
def _quick_weights(keras_backend, monkeypatch):
    if keras_backend == "jax":
        backend.draw_with_numpy(monkeypatch)
