"""Predicates on values whose type alone is not enough, and their format in messages."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def format_value(value: Any, most: int = 60) -> str:
    """Format a value for a message: its type, and the value itself if it is short.

    >>> format_value(1.5)
    'float 1.5'
    """
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bytes | numbers.Number | bool):
        text = repr(value)
        return f"{kind} {text if len(text) <= most else text[: most - 3] + '...'}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{kind} of shape {tuple(shape)}"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"{kind} of {len(value)}"
    return kind


def is_truth(value: Any) -> bool:
    """Whether a value is True or False, of Python or NumPy."""
    return isinstance(value, bool | np.bool_)


def is_whole(value: Any, least: int = 0) -> bool:
    """Whether a value is an integer of at least ``least``, and not a bool."""
    return isinstance(value, numbers.Integral) and not is_truth(value) and int(value) >= least


def are_whole(value: Any, least: int = 0, *, or_none: bool = False) -> bool:
    """Whether a value is a non-empty sequence of integers."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return False
    return len(value) > 0 and all(
        is_whole(one, least) or (or_none and one is None) for one in value
    )


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, and not a bool."""
    real = isinstance(value, numbers.Real) and not is_truth(value)
    return real and math.isfinite(float(value))


def is_labels(value: Any) -> bool:
    """Whether a value is a non-empty sequence of names, paths or integers, all of one type."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    if getattr(value, "ndim", 1) != 1 or not isinstance(value, Iterable):
        return False
    kinds = {str if isinstance(one, str) else type(one) for one in value}
    return len(kinds) == 1 and issubclass(kinds.pop(), str | os.PathLike | numbers.Integral)


def is_path(value: Any) -> bool:
    """Whether a value can be the path of a file."""
    return (
        isinstance(value, str | os.PathLike) and "\0" not in os.fspath(value) and bool(str(value))
    )
