"""What ``--resume`` may run: what the user has named here before, as it was then.

A configuration on disk names functions, and going on with it calls them. Whoever gets somebody to
go on in a directory of theirs could otherwise have any function of the machine called, with any
arguments. So what is named on a command line is noted outside of the directory, with the hash of
its code. A configuration that is read is carried out where exactly that was noted, or where the
user says so.

It is noted in ``secateurs/trusted`` below ``$XDG_STATE_HOME`` (``~/.local/state``): a small file
for each task, named by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from secateurs.comparison.settings import SCOPE_MARK, Comparison
from secateurs.errors import SecateursError, StudyError
from secateurs.files import write_atomically
from secateurs.models.factories import locate_code, names_a_function
from secateurs.models.keras_files import is_keras_file
from secateurs.settings.base import Code
from secateurs.settings.study import Configuration

Trusted = TypeVar("Trusted", Configuration, Comparison)

_MODELS = ("torchvision", "timm", "transformers", "hf")
_DATA = ("folder", "grey", "text", "vehicles")
"""Prefixes before a colon that are not modules, in names of models and of data."""


def note_code(settings: Trusted) -> Trusted:
    """Add the hashes of the code that the settings name, and trust that code from now on."""
    code = _code_now(settings)
    noted = settings.model_copy(update={"code": code})
    _trust(noted)
    return noted


def refuse_trust(given: Mapping[str, object]) -> None:
    """Raise if ``--trust`` is given without ``--resume``: code that the user names is trusted."""
    if "trust" in given:
        raise SecateursError(
            "--trust: expected --resume DIRECTORY, whose code it allows to run; received none. "
            "Leave it out: code that the command line itself names is always run."
        )


def check_code(
    settings: Configuration | Comparison, place: Path, command: str, *, trust: bool
) -> None:
    """Check that the code named by settings read from a directory may be run; imports nothing.

    Args:
        settings: Settings that were read.
        place: Directory they were read from.
        command: Command that continues the run, for the message.
        trust: Whether the user allows the code; recorded for the next time.

    Raises:
        StudyError: the settings name code that no command here has named with these options, or
            that has changed since.
    """
    code = _code_now(settings)
    now = settings.model_copy(update={"code": code})
    if trust:
        _trust(now)
    elif code and not _record_of(now).exists():
        raise StudyError(
            f"{place}: {_what_differs(settings.code, code)}. To allow it: "
            f"secateurs {command} --resume {shlex.quote(str(place))} --trust"
        )


def _what_differs(then: Code, now: Code) -> str:
    for name, files in now.items():
        noted = then.get(name)
        if noted and noted != files:
            changed = [path for path in noted if noted[path] != files.get(path)]
            found = ", ".join(files.keys() - noted.keys()) or "changed or missing files"
            return (
                f"expected the code of {name} to be unchanged in {', '.join(changed)}; "
                f"received {found}"
            )
    named = ", ".join(f"{name} ({', '.join(files) or 'no file'})" for name, files in now.items())
    return (
        "expected a run that was begun by a command on this machine with these options; received "
        f"one that would run {named}"
    )


def _trust(settings: Configuration | Comparison) -> None:
    """Record the code and the options it is called with, if the record can be written."""
    if settings.code:
        with suppress(StudyError):
            content = json.dumps(_name_functions(settings), indent=1, sort_keys=True) + "\n"
            write_atomically(_record_of(settings), content.encode())


def _record_of(settings: Configuration | Comparison) -> Path:
    text = json.dumps(_name_functions(settings), sort_keys=True)
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "secateurs" / "trusted" / hashlib.sha256(text.encode()).hexdigest()


def _name_functions(settings: Configuration | Comparison) -> dict[str, object]:
    """The code that is run and its options."""
    return {
        "task": settings.task.model_dump(mode="json"),
        "strategies": sorted(_own_criteria(settings)),
        "code": settings.code,
    }


def _code_now(settings: Configuration | Comparison) -> Code:
    return {
        name: {str(path): _hash_of(path) for path in _files_of(name)}
        for name in dict.fromkeys(_names_in(settings))
    }


def _names_in(settings: Configuration | Comparison) -> Iterator[str]:
    """Names of user functions, and of files that hold a model's code."""
    task = settings.task
    for name, sources in ((task.model, _MODELS), (task.data, _DATA)):
        source, colon, _ = name.partition(":")
        is_own = names_a_function(name) and not (colon and source in sources)
        if is_own or is_keras_file(name):
            yield name
    yield from (name.partition(SCOPE_MARK)[0] for name in _own_criteria(settings))


def _own_criteria(settings: Configuration | Comparison) -> list[str]:
    """Criteria that are user functions, as the user named them."""
    names = (
        settings.strategies if isinstance(settings, Comparison) else (settings.pruning.criterion,)
    )
    return [name for name in names if name and names_a_function(name.partition(SCOPE_MARK)[0])]


def _files_of(name: str) -> list[Path]:
    if is_keras_file(name):
        return [Path(name).resolve()] if Path(name).is_file() else []
    return locate_code(name)


def _hash_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
