"""Stratified random splits: seeded, disjoint and complete."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError

Indices = NDArray[np.int64]

# Each use of a seed has a random stream of its own.
_SPLIT_STREAM, _SUBSET_STREAM = 1, 2


def check_shares(validation: float, test: float) -> None:
    """Raise ``DataError`` unless both shares are at least 0 and leave something to train on."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise DataError(f"expected {name} to be a share in [0, 1); received {name}={share}")
    if validation + test >= 1:
        raise DataError(
            "expected validation + test to leave a share for training, less than 1 together; "
            f"received {validation} + {test} = {validation + test:g}"
        )


def split_stratified(
    labels: Indices, validation: float, test: float, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Row numbers for training, validation and test, with every class divided alike.

    Args:
        labels: The class of each row, shape (N,).
        validation: Share of each class, 0 to 1. Of a share above 0 a class gives at least one row,
            as long as one stays for training.
        test: The same.
        seed: Same seed, same split.

    Returns:
        Three arrays, disjoint, in random order, together holding every row once.
    """
    random = np.random.default_rng([_SPLIT_STREAM, seed])
    parts: tuple[list[Indices], list[Indices], list[Indices]] = ([], [], [])
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        held = _at_least_one(validation, len(rows), spare=len(rows) - 1)
        tested = _at_least_one(test, len(rows), spare=len(rows) - 1 - held)
        for part, piece in zip(
            parts, (rows[held + tested :], rows[:held], rows[held : held + tested]), strict=True
        ):
            part.append(piece)
    train, validated, tested_rows = (random.permutation(np.concatenate(part)) for part in parts)
    return train, validated, tested_rows


def draw_stratified(labels: Indices, limit: int, seed: int) -> Indices:
    """``limit`` row numbers with the classes in the proportions of ``labels``.

    Raises:
        DataError: ``limit`` is less than the number of classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if limit < len(classes):
        raise DataError(
            f"expected limit to leave at least one image for each of {len(classes)} classes; "
            f"received limit={limit}"
        )
    if limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    random = np.random.default_rng([_SUBSET_STREAM, seed])
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, _quotas(counts, limit), strict=True)
    ]
    rows: Indices = random.permutation(np.concatenate(chosen))
    return rows


def _at_least_one(share: float, number: int, spare: int) -> int:
    if share == 0:
        return 0
    return min(max(1, round(share * number)), max(spare, 0))


def _quotas(counts: Indices, limit: int) -> Indices:
    """Divide ``limit`` in proportion to ``counts``, with none 0, by largest remainders."""
    exact = counts * (limit / counts.sum())
    quotas: Indices = np.maximum(1, np.floor(exact)).astype(np.int64)
    while quotas.sum() < limit:
        quotas[np.argmax(np.where(quotas < counts, exact - quotas, -np.inf))] += 1
    while quotas.sum() > limit:
        quotas[np.argmax(np.where(quotas > 1, quotas - exact, -np.inf))] -= 1
    return quotas
