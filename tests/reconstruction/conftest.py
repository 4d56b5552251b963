import pytest

from support.digits_network import trained_network


@pytest.fixture(scope="session")
def dense():
    """A network of digits, trained: no test changes it."""
    return trained_network()
