"""Folders of images, with one subfolder per class."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateurs.data.cache import cache_folder
from secateurs.data.pictures import SUFFIXES, read_picture
from secateurs.data.progress import show_progress
from secateurs.data.sets import Data, Pixels, assemble
from secateurs.data.splits import Indices
from secateurs.errors import DataError

DEFAULT_SIZE = 64
MOST_BYTES_IN_MEMORY = 1_000_000_000
VALIDATION_FOLDERS = ("val", "valid", "validation")
TEST_FOLDERS = ("test",)
_LUMINANCE = (0.299, 0.587, 0.114)

_Listing = dict[str, list[Path]]


def load_folder(
    path: Path,
    size: int | None,
    shares: tuple[float, float],
    seed: int,
    limit: int | None,
    crop: float = 1.0,
    *,
    grey: bool = False,
) -> Data:
    """Load images from ``path``; see ``secateurs.data.load``.

    ``path`` holds one folder per class; or a folder ``train`` of such folders, beside ``val`` or
    ``test`` or both. Missing splits are taken out of the training images. ``grey`` gives one
    channel, with the weights of ITU-R BT.601, as in PIL.

    Raises:
        DataError: a file cannot be read, a class is empty, there is only one class, ...
    """
    if not path.is_dir():
        raise DataError(
            f"folder:{path}: expected a folder that holds one folder for each class; "
            f"received {'a file' if path.exists() else 'a path that does not exist'}"
        )
    parts = _parts(path)
    listings = {part: _listing(folder) for part, folder in parts.items()}
    classes = list(listings["train"])
    for part, listing in listings.items():
        _check_same_classes(parts[part], list(listing), parts["train"], classes)
    files = [file for listing in listings.values() for label in classes for file in listing[label]]
    pixels = _read_all(files, size or DEFAULT_SIZE, crop, grey)
    labelled: dict[str, tuple[Pixels, Indices]] = {}
    start = 0
    for part, listing in listings.items():
        labels = np.repeat(np.arange(len(classes)), [len(listing[label]) for label in classes])
        labelled[part] = (pixels[start : start + len(labels)], labels)
        start += len(labels)
    return assemble(
        f"{'grey' if grey else 'folder'}:{path}",
        classes,
        labelled["train"],
        labelled.get("validation"),
        labelled.get("test"),
        shares=shares,
        seed=seed,
        limit=limit,
    )


def _parts(path: Path) -> dict[str, Path]:
    """Folders of the splits: 'train' only, if ``path`` holds the classes themselves."""
    parts = {"train": path / "train"}
    for part, names in (("validation", VALIDATION_FOLDERS), ("test", TEST_FOLDERS)):
        found = [path / name for name in names if (path / name).is_dir()]
        if found:
            parts[part] = found[0]
    split = parts["train"].is_dir() and len(parts) > 1
    return parts if split else {"train": path}


def _listing(folder: Path) -> _Listing:
    """The image files of each class, sorted."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(classes) < 2:
        images = sum(_is_image(entry) for entry in folder.iterdir())
        raise DataError(
            f"{folder}: expected at least two folders, one for each class, with images in them; "
            f"received {len(classes)} folder{'s' * (len(classes) != 1)}, and {images} "
            f"image{'s' * (images != 1)} beside {'it' if len(classes) == 1 else 'them'}. "
            "Put the images of each class in a folder of its own."
        )
    listing = {
        entry.name: sorted(file for file in entry.rglob("*") if _is_image(file))
        for entry in classes
    }
    for name, files in listing.items():
        if not files:
            raise DataError(
                f"{folder / name}: expected at least one image ({', '.join(sorted(SUFFIXES))}); "
                "received none. Put images there, or remove the folder."
            )
    return listing


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()


def _check_same_classes(folder: Path, classes: list[str], train: Path, expected: list[str]) -> None:
    if classes == expected:
        return
    missing = sorted(set(expected) - set(classes))
    extra = sorted(set(classes) - set(expected))
    raise DataError(
        f"{folder}: expected the same classes as {train}; "
        + "; ".join(
            f"{fault} {', '.join(names)}"
            for fault, names in (("missing", missing), ("not there", extra))
            if names
        )
    )


def _read_all(files: Sequence[Path], size: int, crop: float, grey: bool) -> NDArray[np.uint8]:
    pixels = _room((len(files), 1 if grey else 3, size, size))

    def read(number: int) -> None:
        picture = read_picture(files[number], size, crop)
        pixels[number] = np.tensordot(_LUMINANCE, picture, 1).round() if grey else picture

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in show_progress(pool.map(read, range(len(files))), len(files), "Reading images"):
            pass
    return pixels


def _room(shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Allocate an array: in memory, or memory-mapped to an unnamed file if it is large."""
    needed = int(np.prod(shape))
    if needed <= MOST_BYTES_IN_MEMORY:
        return np.empty(shape, np.uint8)
    # Not in the temporary folder, which is often in memory. The mapping keeps the file alive, and
    # the file disappears with the process, however that ends.
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.uint8, mode="w+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{folder}: expected room for {needed} bytes of pixels; {error.strerror or error}. "
            "Set XDG_CACHE_HOME to a folder on a larger disk, or take a smaller size."
        ) from error
