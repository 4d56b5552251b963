"""Tokenizers in directories saved by Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateurs.errors import DataError, UnknownNameError
from secateurs.models.directories import CONFIGURATION

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
_TASKS = (
    (("ForCausalLM", "LMHeadModel"), "language-modelling"),
    (("ForMaskedLM", "ForPreTraining"), "masked-language-modelling"),
    (("ForSequenceClassification",), "classification"),
)


def load_tokenizer(place: Path) -> Any:
    """Load the tokenizer in a directory; without a padding token, it pads with its end token.

    Args:
        place: the directory. Nothing outside it is read, and nothing is downloaded.

    Raises:
        UnknownNameError: there is none, or Transformers is not installed.
        DataError: it cannot be read.
    """
    if not any((place / name).is_file() for name in _FILES):
        raise UnknownNameError(
            f"{place}: expected a directory with a tokenizer ({', '.join(_FILES)}); received "
            f"{'one without' if place.is_dir() else 'no directory'}. Write it there with "
            "tokenizer.save_pretrained(...), or name its own with --tokenizer DIRECTORY."
        )
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise UnknownNameError(f"{place}: needs Transformers; pip install transformers") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # its validators raise exceptions of their own
        raise DataError(
            f"{place}: cannot be read as a tokenizer: {' '.join(str(error).split())[:300]}"
        ) from error
    if tokenizer.pad_token is None:
        # Padding is masked and has no label, so it does not matter which token it is.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise DataError(
            f"{place}: expected a tokenizer with a padding token; received one without. Set "
            "tokenizer.pad_token, and save it again."
        )
    return tokenizer


def task_of_directory(place: Path) -> str | None:
    """Name of the task of a model in a directory, by its architecture; None if unknown."""
    try:
        kind = str(json.loads((place / CONFIGURATION).read_bytes())["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return next((task for ends, task in _TASKS if kind.endswith(ends)), None)
