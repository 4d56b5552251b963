"""Common to all tests: fixed seeds, one thread, and hypothesis without deadlines."""

import os
import random
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "secateurs",
    deadline=None,  # the machines that run the tests are shared
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
    print_blob=True,
)
settings.load_profile("secateurs")
os.environ.setdefault("KERAS_BACKEND", "torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--independent",
        action="store_true",
        help="prove every cut twice, the second time without the rules",
    )


@pytest.fixture(autouse=True)
def _proven_twice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("--independent"):
        from secateurs.pytorch import cutting

        if request.node.get_closest_marker("read_without_weights"):
            return  # what these cut is read by an operation that has no weights to silence
        monkeypatch.setitem(cutting.apply.__kwdefaults__, "proof", "independent")
        if "secateurs.keras.cutting" in sys.modules:
            keras_cutting = sys.modules["secateurs.keras.cutting"]
            monkeypatch.setitem(keras_cutting.apply.__kwdefaults__, "proof", "independent")


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What command lines note for their user is noted apart from the user's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums are the same in whatever order tests run: fixtures of a session come before any test."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
