"""Data sets by name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secateurs.data import load
from secateurs.errors import DataError, UnknownNameError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with a module of the user's in it."""
    (tmp_path / "users_data.py").write_text(
        "import numpy as np\n"
        "from secateurs.data import from_arrays\n"
        "def make(size=6, seed=0):\n"
        "    images = np.random.default_rng(seed).random((60, 1, size, size))\n"
        "    return from_arrays((images, np.arange(60) % 3), name='mine')\n"
        "def wrong():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("users_data", None)


def test_digits() -> None:
    data = load("digits")
    assert data.classes == tuple("0123456789")
    assert data.shape == (1, 8, 8)
    total = len(data.train) + len(data.validation) + len(data.test)
    assert total == 1797
    rows = np.concatenate([data.train.rows, data.validation.rows, data.test.rows])
    assert sorted(rows.tolist()) == list(range(1797))
    counts = np.bincount(data.validation.labels)
    assert counts.max() - counts.min() <= 2
    batch, labels = data.train.batch(range(5))
    assert batch.shape == (5, 1, 8, 8)
    assert batch.dtype == np.float32
    assert labels.dtype == np.int64


def test_digits_of_another_size() -> None:
    data = load("digits", size=16, limit=100)
    assert data.shape == (1, 16, 16)
    assert len(data.train) == 100
    plain = load("digits")
    shrunk = data.test.pixels.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))
    both = np.corrcoef(shrunk.ravel(), plain.test.pixels.ravel())
    assert both[0, 1] > 0.95


def test_the_same_seed_the_same_split() -> None:
    one, other, third = load("digits", seed=4), load("digits", seed=4), load("digits", seed=5)
    for part in ("train", "validation", "test"):
        rows = getattr(one, part).rows
        assert np.array_equal(rows, getattr(other, part).rows)
        assert not np.array_equal(rows, getattr(third, part).rows)


@pytest.mark.usefixtures("here")
def test_a_users_data_set_is_loaded() -> None:
    data = load("users_data:make", size=9, limit=12)
    assert data.shape == (1, 9, 9)
    assert len(data.train) == 12
    assert data.name == "mine"
    assert load("users_data:make").shape == (1, 6, 6)
    with pytest.raises(DataError, match=r"a secateurs\.data\.Data; received int.*from_arrays"):
        load("users_data:wrong")
    with pytest.raises(UnknownNameError, match="did you mean 'make'"):
        load("users_data:mak")


@pytest.mark.parametrize(
    ("name", "meant"), [("digit", "digits"), ("fashion", "fashion-mnist"), ("vehicle", "vehicles")]
)
def test_unknown_names(name: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no data set '{name}'; did you mean '{meant}'"):
        load(name)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(DataError, match=r"received validation=-0\.1"):
        load("digits", validation=-0.1)
    with pytest.raises(DataError, match="at least 1 pixel; received size=0"):
        load("digits", size=0)
    with pytest.raises(DataError, match="at least 0; received seed=-1"):
        load("digits", seed=-1)
    with pytest.raises(DataError, match="each of 10 classes; received limit=5"):
        load("digits", limit=5)


def test_the_test_split_is_optional() -> None:
    data = load("digits", test=0)
    assert len(data.test) == 0
    assert len(data.train) + len(data.validation) == 1797
