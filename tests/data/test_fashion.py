"""Fashion-MNIST: its files, and where it is downloaded from without them."""

import gzip
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.data import fashion, load
from secateurs.errors import DataError


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file, by its description."""
    header = b"\x00\x00\x08" + bytes([array.ndim])
    return header + b"".join(struct.pack(">I", length) for length in array.shape) + array.tobytes()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small Fashion-MNIST in the place of Debian's."""
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3": random.integers(0, 256, (200, 28, 28), dtype=np.uint8),
        "train-labels-idx1": (np.arange(200) % 10).astype(np.uint8),
        "t10k-images-idx3": random.integers(0, 256, (40, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1": (np.arange(40) % 10).astype(np.uint8),
    }
    for name, array in arrays.items():
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path)
    return arrays


def test_reads_a_file_made_by_hand(tmp_path: Path) -> None:
    content = bytes.fromhex("00000802 00000002 00000003 01020304 05ff")
    path = tmp_path / "small.gz"
    path.write_bytes(gzip.compress(content))
    assert fashion.read_idx(path).tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzipped", "expected a gzipped IDX file"),
        (
            gzip.compress(b"\x00\x00\x08\x01" + b"\x00" * 40, mtime=0)[:-12],
            "expected a gzipped IDX file",
        ),
        (
            gzip.compress(b"\x00\x00\x0d\x01" + bytes(8), mtime=0),
            "beginning 00 00 08; received 00 00 0d 01",
        ),
        (gzip.compress(b"", mtime=0), "beginning 00 00 08"),
        (gzip.compress(b"\x00\x00\x08\x03\x00\x00", mtime=0), "its header ends after 6 bytes"),
        (
            gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc", mtime=0),
            "expected 5 bytes.*received 3",
        ),
    ],
)
def test_broken_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train-images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        fashion.read_idx(path)


def test_a_missing_file_is_named(installation: dict[str, np.ndarray]) -> None:
    missing = fashion.DEBIAN_FOLDER / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    with pytest.raises(DataError, match=str(missing)):
        load("fashion-mnist")


def test_the_official_test_images_are_the_test_split(installation: dict[str, np.ndarray]) -> None:
    data = load("fashion-mnist", validation=0.2, test=0.5, seed=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (160, 40, 40)
    assert data.shape == (1, 28, 28)
    assert len(data.classes) == 10
    batch, labels = data.test.batch(slice(None))
    assert np.array_equal(labels, installation["t10k-labels-idx1"])
    back = batch[:, 0] * data.test.std[0] + data.test.mean[0]
    np.testing.assert_allclose(back, installation["t10k-images-idx3"], atol=1e-3)
    assert sorted([*data.train.rows, *data.validation.rows]) == list(range(200))


def test_another_size_and_a_limit(installation: dict[str, np.ndarray]) -> None:
    data = load("fashion-mnist", size=32, limit=50)
    assert data.shape == (1, 32, 32)
    assert data.train.batch([0, 1])[0].shape == (2, 1, 32, 32)
    assert len(data.train) == 50


def test_fetched_where_debians_package_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def fetch(name: str, *, version: int, as_frame: bool) -> SimpleNamespace:
        asked.append((name, version, as_frame))
        pixels = np.zeros((70_000, 784), np.int64)
        pixels[:60_000] = 1
        target = np.array([str(number % 10) for number in range(70_000)], dtype=object)
        return SimpleNamespace(data=pixels, target=target)

    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path / "nothing")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    data = load("fashion-mnist", limit=100)
    assert asked == [("Fashion-MNIST", 1, False)]
    assert len(data.test) == 10_000
    assert data.test.pixels.max() == 0
    assert np.array_equal(data.test.labels[:11], [*range(10), 0])


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: object, **options: object) -> None:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path / "nothing")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(DataError, match=r"nobody there.*apt install dataset-fashion-mnist"):
        load("fashion-mnist")


@pytest.mark.skipif(
    not fashion.DEBIAN_FOLDER.is_dir(), reason="dataset-fashion-mnist not installed"
)
def test_debians_files() -> None:
    images = fashion.read_idx(fashion.DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz")
    labels = fashion.read_idx(fashion.DEBIAN_FOLDER / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10
    assert fashion.CLASSES[labels[0]] == "ankle boot"  # the first test image, known from the paper
