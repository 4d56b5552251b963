"""As for the Keras tests: the requested backend."""

import pytest

from contract import backend


def pytest_configure(config):
    backend.prepare(config)


@pytest.fixture(autouse=True, scope="session")
def keras_backend():
    return backend.load_backend()
