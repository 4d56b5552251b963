import pytest

from support.digits_network import train_network


@pytest.fixture(scope="session")
def dense():
    """A network of digits, trained: no test changes it."""
    return train_network()
