"""Fashion-MNIST, from Debian's package or from OpenML.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateurs.data.pictures import resize
from secateurs.data.sets import Data, assemble
from secateurs.data.splits import Indices
from secateurs.errors import DataError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_TRAINING_IMAGES = 60_000
_PIXELS = 28
_IDX_UINT8 = 0x08

_Labelled = tuple[NDArray[np.uint8], Indices]


def load_fashion_mnist(
    size: int | None, shares: tuple[float, float], seed: int, limit: int | None
) -> Data:
    """70,000 grey images of 28 x 28 pixels in ten classes; see ``secateurs.data.load``.

    The official test images are the test split.
    """
    train, test = _from_debian() if DEBIAN_FOLDER.is_dir() else _from_openml()
    return assemble(
        "fashion-mnist",
        CLASSES,
        (resize(train[0], size), train[1]),
        test=(resize(test[0], size), test[1]),
        shares=(shares[0], 0),
        seed=seed,
        limit=limit,
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes, the format of MNIST.

    Raises:
        DataError: the file is missing, cut short, or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a gzipped IDX file; {error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, _IDX_UINT8)):
        raise DataError(
            f"{path}: expected an IDX file of bytes, beginning 00 00 08; "
            f"received {content[:4].hex(' ')}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path}: cut short; its header ends after {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path}: cut short or too long; expected {math.prod(shape)} bytes for shape {shape}, "
            f"received {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _from_debian() -> tuple[_Labelled, _Labelled]:
    def part(prefix: str) -> _Labelled:
        images = read_idx(DEBIAN_FOLDER / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(DEBIAN_FOLDER / f"{prefix}-labels-idx1-ubyte.gz")
        return images[:, None], labels.astype(np.int64)

    return part("train"), part("t10k")


def _from_openml() -> tuple[_Labelled, _Labelled]:
    from sklearn.datasets import fetch_openml

    try:
        fetched = fetch_openml("Fashion-MNIST", version=1, as_frame=False)
    except OSError as error:  # base class of urllib's errors
        raise DataError(
            f"fashion-mnist: {DEBIAN_FOLDER} is not there and OpenML cannot be reached ({error}); "
            f"apt install {DEBIAN_PACKAGE}, or connect once: the download is cached"
        ) from error
    images = fetched.data.astype(np.uint8).reshape(-1, 1, _PIXELS, _PIXELS)
    labels = fetched.target.astype(np.int64)
    cut = _TRAINING_IMAGES
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
