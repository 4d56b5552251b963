"""Immutable settings with one-line error messages, stored as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateurs.arguments import format_value
from secateurs.errors import SecateursError, StudyError, nearest
from secateurs.files import open_json, seal_json, write_atomically

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Code = dict[str, dict[str, str]]
"""Name of a function -> file that it is in -> SHA-256 of that file."""


class Settings(BaseModel):
    """Immutable settings, whose validation errors are reported on one line."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except TypeError as error:  # keys that are not strings
            raise SecateursError(f"{type(self).__name__}: {error}") from error
        except ValidationError as error:
            raise SecateursError(_one_line_message(error, list(type(self).model_fields))) from error


class Document(Settings):
    """Settings that are stored in a file, as JSON that identifies itself.

    A subclass has a ``format`` and a ``version``, each with its only value as the default.
    """

    _APART: ClassVar[frozenset[str]] = frozenset({"command", "code"})
    """Fields that describe the origin of the settings, and are ignored in comparisons."""

    def to_json(self) -> str:
        """The settings as JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the settings with a checksum, atomically.

        Raises:
            StudyError: the file cannot be written.
        """
        write_atomically(path, seal_json(self.model_dump(mode="json")).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read settings that ``save`` wrote, or JSON as from ``to_json``.

        Raises:
            StudyError: the file cannot be read, is something else, or is of a newer version.
        """
        kind, known = (cls.model_fields[name].default for name in ("format", "version"))
        subject = str(kind).removeprefix("secateurs-")
        try:
            values = open_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StudyError(
                f"{path}: cannot be read as a {subject}'s configuration: {error}"
            ) from error
        if not isinstance(values, dict) or values.get("format") != kind:
            raise StudyError(
                f"{path}: expected a {subject}'s configuration (format {kind!r}); received "
                "something else"
            )
        if values.get("version") != known:
            raise StudyError(
                f"{path}: expected version {known} of a {subject}; received version "
                f"{values.get('version')!r}. Continue with the release of secateurs that began it."
            )
        try:
            return cls(**values)
        except SecateursError as error:
            raise StudyError(f"{path}: {error}") from error

    def differences(self, other: Self) -> list[str]:
        """List each setting that differs, as 'training.batch_size: 64, not 128'."""
        mine, theirs = (_flat(one.model_dump(mode="json")) for one in (self, other))
        return [
            f"{name}: {json.dumps(mine.get(name))}, not {json.dumps(theirs.get(name))}"
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name) != theirs.get(name) and name.partition(".")[0] not in self._APART
        ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _one_line_message(error: ValidationError, known: list[str]) -> str:
    faults = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            faults.append(f"{name}: no such setting{nearest(name, known)}")
        elif problem["type"] == "missing":
            faults.append(f"{name}: expected a value; received none")
        else:
            expected = problem["msg"].replace("Input should be", "expected")
            expected = re.sub("^expected (?=greater|less)", "expected a number ", expected)
            faults.append(f"{name}: {expected}; received {format_value(problem['input'])}")
    return "; ".join(dict.fromkeys(faults))
