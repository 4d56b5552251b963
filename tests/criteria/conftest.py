import pytest


@pytest.fixture
def pruning():
    """Torch-Pruning, of which three scores differ from ours, and the tests say why."""
    return pytest.importorskip("torch_pruning")
