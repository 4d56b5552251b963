"""Texts from files, tokenized by a model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.data.texts import Tokenizer, from_texts
from secateurs.errors import DataError

DEFAULT_LENGTH = 128
"""Default limit on the tokens of each text."""

MASKED_SHARE = 0.15
"""Share of the tokens that a masked language model predicts; Devlin et al., BERT, 2019."""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_READ = (".txt", ".jsonl")

TokenArrays = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, with their classes if there are any.

    Attributes:
        texts: the texts.
        labels: class of each text as named in the file; None if there are none.
    """

    texts: list[str]
    labels: list[Any] | None = None

    def rows(self, chosen: NDArray[np.int64]) -> Texts:
        """Select some of them."""
        labels = None if self.labels is None else [self.labels[row] for row in chosen]
        return Texts([self.texts[row] for row in chosen], labels)


def load_texts(
    place: Path,
    tokenizer: Tokenizer,
    *,
    length: int | None = None,
    shares: tuple[float, float] = (0.15, 0.15),
    seed: int = 0,
    limit: int | None = None,
    masked: bool = False,
) -> tuple[TokenArrays, TokenArrays, TokenArrays]:
    r"""Load (train, validation, test) from a file of texts, or a folder of such files.

    Args:
        place: a ``.txt`` file with one text per line; a ``.jsonl`` file of objects with a ``text``
            and optionally a ``label``; or a folder of these: named ``train``, ``validation`` and
            ``test``, or otherwise joined.
        tokenizer: a Transformers tokenizer.
        length: number of tokens of each text; shorter ones are padded. None uses the longest
            text's, at most 128.
        shares: shares of validation and test, split off if there are no files for them.
        seed: seed of the split and of masking.
        limit: largest number of training texts.
        masked: whether to hide some of the tokens, which become the labels.

    Raises:
        DataError: a file cannot be read, or there are too few texts.

    Example:
        >>> def letters(texts, padding, truncation, max_length):
        ...     return {"input_ids": [[ord(c) for c in text[:2]] for text in texts]}
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "two.txt"
        ...     _ = place.write_text("\n".join(f"{n:02}" for n in range(20)))
        ...     parts = load_texts(place, letters, length=2)
        >>> [len(part["input_ids"]) for part in parts]
        [14, 3, 3]
    """
    parts = _split(_read(place), shares, seed, place)
    if limit is not None:
        parts["train"] = parts["train"].rows(np.arange(min(limit, len(parts["train"].texts))))
    classes = _classes_of(parts, place)
    size = length if length is not None else _longest(parts, tokenizer)
    found = {}
    for number, (name, part) in enumerate(parts.items()):
        labels = None if classes is None else [classes[str(one)] for one in part.labels or ()]
        arrays = from_texts(part.texts, tokenizer, length=size, labels=labels)
        found[name] = _mask(arrays, tokenizer, seed + number) if masked else arrays
    return found["train"], found["validation"], found["test"]


def _read(place: Path) -> dict[str, Texts]:
    """Part -> its texts; those of no particular part are "all"."""
    if not place.exists():
        raise DataError(
            f"text:{place}: expected a text file or a folder of text files; no such path"
        )
    files = sorted(one for one in place.rglob("*") if one.suffix in _READ) or []
    if place.is_file():
        files = [place]
    if not files:
        raise DataError(f"text:{place}: expected files {', '.join(_READ)} in it; received none")
    found: dict[str, Texts] = {}
    for file in files:
        words = {file.stem.lower(), file.parent.name.lower()} if place.is_dir() else set()
        part = next((name for name, known in _PARTS.items() if words & set(known)), "all")
        found[part] = _join(found.get(part), _read_file(file), file)
    if "train" in found and "all" in found:
        found["train"] = _join(found["train"], found.pop("all"), place)
    return {"train": found.pop("all"), **found} if "all" in found else found


def _join(one: Texts | None, other: Texts, file: Path) -> Texts:
    if one is None:
        return other
    if (one.labels is None) != (other.labels is None):
        raise DataError(f"{file}: expected labels in all files or in none")
    labels = None if one.labels is None else [*one.labels, *(other.labels or ())]
    return Texts([*one.texts, *other.texts], labels)


def _read_file(file: Path) -> Texts:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: expected a text in UTF-8 that can be read; {type(error).__name__}: {error}"
        ) from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if file.suffix != ".jsonl":
        return Texts([line.strip() for _, line in filled])
    records = [_record(file, number, line) for number, line in filled]
    labelled = [record for record in records if "label" in record]
    if labelled and len(labelled) < len(records):
        raise DataError(
            f"{file}: expected a label in every line or in none; received {len(labelled)} of "
            f"{len(records)}"
        )
    labels = [record["label"] for record in records] if labelled else None
    return Texts([record["text"] for record in records], labels)


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: line {number}: expected JSON; {str(error)[:100]}") from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise DataError(
            f'{file}: line {number}: expected an object with a text, {{"text": "..."}}; received '
            f"{line.strip()[:60]}"
        )
    if not isinstance(found.get("label", 0), int | str):
        raise DataError(
            f"{file}: line {number}: expected a label that is a number or a name; received "
            f"{type(found['label']).__name__}"
        )
    return found


def _split(
    parts: dict[str, Texts], shares: tuple[float, float], seed: int, place: Path
) -> dict[str, Texts]:
    """Split off missing parts from the training texts."""
    if "train" not in parts:
        raise DataError(f"text:{place}: expected training texts, in train.txt; received none")
    missing = [name for name in ("validation", "test") if name not in parts]
    counts = dict(zip(("validation", "test"), shares, strict=True))
    texts = parts["train"]
    order = np.random.default_rng([6, seed]).permutation(len(texts.texts))
    start = 0
    for name in missing:
        end = start + max(1, round(counts[name] * len(order)))
        parts[name] = texts.rows(np.sort(order[start:end]))
        start = end
    parts["train"] = texts.rows(np.sort(order[start:]))
    for name, part in parts.items():
        if not part.texts:
            raise DataError(
                f"text:{place}: expected a text for each of training, validation and test at "
                f"least; received {len(texts.texts)} in all, none is left for {name}"
            )
    return {name: parts[name] for name in ("train", "validation", "test")}


def _classes_of(parts: Mapping[str, Texts], place: Path) -> dict[str, int] | None:
    """Label -> class number; None if there are no labels."""
    labelled = [part.labels for part in parts.values() if part.labels is not None]
    if not labelled:
        return None
    if len(labelled) < len(parts):
        raise DataError(f"text:{place}: expected labels in all parts or in none")
    every = {one for labels in labelled for one in labels}
    numbers = all(isinstance(one, int) for one in every)
    if numbers:
        return {str(one): int(one) for one in every}
    return {str(one): number for number, one in enumerate(sorted(map(str, every)))}


def _longest(parts: Mapping[str, Texts], tokenizer: Tokenizer) -> int:
    """Number of tokens of the longest text, at most 128."""
    rows = from_texts(parts["train"].texts, tokenizer)
    return min(int(next(iter(rows.values())).shape[1]), DEFAULT_LENGTH)


def _mask(arrays: TokenArrays, tokenizer: Any, seed: int) -> TokenArrays:
    """Hide some tokens, which become the labels; all others are ignored by the loss."""
    hidden = getattr(tokenizer, "mask_token_id", None)
    if hidden is None:
        raise DataError(
            "masked-language-modelling: expected a tokenizer with a mask token; received one "
            "without. A model that predicts the next token is for --task language-modelling."
        )
    tokens = arrays["input_ids"]
    special = np.isin(tokens, list(getattr(tokenizer, "all_special_ids", ())))
    draws = np.random.default_rng([7, seed]).random(tokens.shape) + special
    # At least one per text, because a loss over no token is undefined.
    least = draws == draws.min(axis=1, keepdims=True)
    chosen = ((draws < MASKED_SHARE) | least) & ~special
    shown, labels = np.where(chosen, hidden, tokens), np.where(chosen, tokens, -100)
    return {**arrays, "input_ids": shown, "labels": labels}
