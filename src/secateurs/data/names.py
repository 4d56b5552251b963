"""Data sets by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.arguments import NUMBER, TEXT, Kind, is_number, is_whole, takes, takes_as_annotated
from secateurs.data.digits import load_digits
from secateurs.data.fashion import load_fashion_mnist
from secateurs.data.folder import load_folder
from secateurs.data.normalisation import check, renormalise
from secateurs.data.sets import Data
from secateurs.data.splits import check_shares
from secateurs.data.text_files import load_texts
from secateurs.data.vehicles import load_vehicles
from secateurs.errors import DataError, UnknownNameError, nearest
from secateurs.models.factories import call_factory, names_a_function
from secateurs.models.tokenizers import load_tokenizer

_NAME = Kind("a data set's name", lambda value: isinstance(value, str), UnknownNameError)
_CROP = Kind("a share in (0, 1]", lambda value: is_number(value) and 0 < value <= 1, DataError)
_WHOLE = Kind("a whole number", lambda value: is_whole(value, -sys.maxsize), DataError)
_LARGEST = 16_384
_SIZE = Kind(
    f"a number of pixels, 1 to {_LARGEST:,}",
    lambda value: is_whole(value, -_LARGEST) and value <= _LARGEST,
    DataError,
)
KNOWN = ("digits", "fashion-mnist", "vehicles", "folder:PATH", "grey:PATH", "text:PATH")


@takes(
    name=_NAME,
    seed=_WHOLE,
    size=_SIZE.or_none(),
    validation=NUMBER,
    test=NUMBER,
    limit=_WHOLE.or_none(),
    normalise=TEXT,
    crop=_CROP,
)
def load(
    name: str,
    *,
    seed: int = 0,
    size: int | None = None,
    validation: float = 0.15,
    test: float = 0.15,
    limit: int | None = None,
    normalise: str = "data",
    crop: float = 1.0,
) -> Data:
    """A data set by name.

    Args:
        name: ``digits`` (1,797 grey images of 8 x 8 pixels), ``fashion-mnist`` (70,000, grey,
            28 x 28), ``vehicles`` (10,000 rendered vehicles in eight colours, 64 x 64; or
            ``vehicles:N``, the first N of them), ``folder:PATH`` (a folder of images for each
            class, or ``train``, ``val`` and ``test`` folders of such folders), ``grey:PATH`` (the
            same, for models that take one channel), or
            ``package.module:function``, which returns a ``Data``.
        seed: For the split and the subset. The images themselves never depend on it.
        size: Height and width in pixels; None keeps the data set's own (64 for a folder).
        validation: Share of each class that is taken out of the training images for validation,
            where the data set does not say which images those are.
        test: The same for the test split.
        limit: Keep that many training images, of each class in proportion.
        normalise: "data" by the training pixels' own mean and deviation, which is right for a model
            that is trained on these images; "imagenet", "none" or MEAN/STD as the model at hand
            was trained: see ``secateurs.data.renormalise``.
        crop: Of a folder: share of the shorter side that the middle crop keeps; 0.875 is usual.

    Raises:
        UnknownNameError: no such data set; the message says the nearest.
        DataError: the data cannot be read or used; the message says which file, and the fix.
    """
    check_shares(validation, test)
    if size is not None and size < 1:
        raise DataError(f"expected a size of at least 1 pixel; received size={size}")
    if seed < 0:
        raise DataError(f"expected a seed of at least 0; received seed={seed}")
    check(normalise)
    loaded = _load(name, size, (validation, test), seed, limit, crop)
    return renormalise(loaded, normalise)


@takes_as_annotated(DataError)
def load_any(name: str, **options: Any) -> Data | tuple[Any, ...]:
    """Load a data set by name, for any task.

    Args:
        name: as for ``load``; or ``package.module:function``, which returns (train, validation) or
            (train, validation, test), each as for ``iterate``: arrays, or batches of any kind; or
            ``text:PATH``, a file of texts with one per line, or a folder of such files.
        **options: as for ``load``; a function is passed those that it takes. For texts,
            ``tokenizer`` is a directory with one, ``size`` is the number of tokens, and ``masked``
            hides some tokens.

    Raises:
        DataError: the function returns something else.
    """
    source, _, rest = name.partition(":")
    if source == "text":
        return _load_texts(Path(rest), **options)
    if name in KNOWN or source in ("vehicles", "folder", "grey") or not names_a_function(name):
        return load(name, **options)
    found = call_factory(name, {}, options, DataError)
    if isinstance(found, Data):
        return found
    if isinstance(found, tuple | list) and len(found) in (2, 3):
        return tuple(found)
    raise DataError(
        f"{name}: expected (train, validation) or (train, validation, test), each as "
        f"secateurs.iterate takes them, or a secateurs.data.Data; received {type(found).__name__}"
        + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
    )


def _load_texts(
    place: Path,
    *,
    tokenizer: str | Path | None = None,
    size: int | None = None,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    limit: int | None = None,
    masked: bool = False,
    **others: Any,
) -> tuple[Any, ...]:
    for name in others:
        raise DataError(f"text:{place}: expected no {name}, which applies to images; received one")
    if tokenizer is None:
        raise DataError(
            f"text:{place}: expected a tokenizer; received none. A model transformers:DIRECTORY "
            "includes one; for any other, pass a directory with one: --tokenizer DIRECTORY."
        )
    check_shares(validation, test)
    if size is not None and size < 1:
        raise DataError(f"expected at least 1 token of each text; received size={size}")
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1; received {limit}")
    reader, shares = load_tokenizer(Path(tokenizer)), (validation, test)
    return load_texts(
        place, reader, length=size, shares=shares, seed=seed, limit=limit, masked=masked
    )


def _load(
    name: str,
    size: int | None,
    shares: tuple[float, float],
    seed: int,
    limit: int | None,
    crop: float,
) -> Data:
    source, _, rest = name.partition(":")
    if name == "digits":
        return load_digits(size, shares, seed, limit)
    if name == "fashion-mnist":
        return load_fashion_mnist(size, shares, seed, limit)
    if source == "vehicles":
        return load_vehicles(name, size, shares, seed, limit)
    if source in ("folder", "grey"):
        grey = source == "grey"
        return load_folder(Path(rest), size, shares, seed, limit, crop, grey=grey)
    if names_a_function(name):
        hints = {"seed": seed, "size": size, "validation": shares[0], "test": shares[1]}
        hints |= {"limit": limit}
        return _from_factory(name, hints, seed, limit)
    raise UnknownNameError(
        f"no data set {name!r}{nearest(name, KNOWN)}; others: package.module:function, "
        "FILE.py:FUNCTION"
    )


def _from_factory(
    name: str, hints: Mapping[str, float | None], seed: int, limit: int | None
) -> Data:
    known = {key: value for key, value in hints.items() if value is not None}
    data = call_factory(name, {}, known, DataError)
    if not isinstance(data, Data):
        raise DataError(
            f"{name}: expected a secateurs.data.Data; received {type(data).__name__}. "
            "secateurs.data.from_arrays(train=(images, labels)) makes one."
        )
    return data if limit is None else data.limit(limit, seed)
