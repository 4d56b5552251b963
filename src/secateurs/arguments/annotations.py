"""Checks of arguments against a function's annotations."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from pydantic import ConfigDict, InstanceOf, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from secateurs.arguments.declaration import refuse_unknown_keywords
from secateurs.arguments.values import format_value
from secateurs.errors import SecateursError, UnknownNameError, nearest

P = ParamSpec("P")
R = TypeVar("R")


def takes_as_annotated(
    failure: type[SecateursError] = SecateursError,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that checks a function's arguments against its annotations before each call.

    For functions whose annotations are complete. What cannot be checked at run time (protocols,
    names that are imported for type checkers only) is accepted.
    >>> @takes_as_annotated()
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double("2")
    Traceback (most recent call last):
        ...
    secateurs.errors.SecateursError: double: number: expected int; received str '2'.
    """

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        written = inspect.get_annotations(inspect.unwrap(function))

        @functools.cache
        def adapter(name: str) -> TypeAdapter[Any] | None:
            try:
                meant = eval(written[name], inspect.unwrap(function).__globals__)  # noqa: S307
            except NameError:
                return None  # imported for type checkers only
            if getattr(meant, "_is_protocol", False):
                meant = Any
            try:
                return TypeAdapter(meant, config=ConfigDict(arbitrary_types_allowed=True))
            except (PydanticUserError, SchemaError):  # an own class, or unknown at run time
                instance: Any = InstanceOf
                return TypeAdapter(instance[meant] if isinstance(meant, type) else Any)

        @functools.wraps(function)
        def check_and_call(*arguments: P.args, **keywords: P.kwargs) -> R:
            refuse_unknown_keywords(function, signature, keywords)
            bound = signature.bind_partial(*arguments, **keywords)
            caller = function.__qualname__.removesuffix(".__init__")
            for name, value in bound.arguments.items():
                if name in written:
                    place = f"{caller}: {name}"
                    read = _read(place, adapter(name), written[name], value, failure)
                    bound.arguments[name] = read
            return function(*bound.args, **bound.kwargs)

        return check_and_call

    return declare


def _read(
    place: str,
    known: TypeAdapter[Any] | None,
    annotation: Any,
    value: Any,
    failure: type[SecateursError],
) -> Any:
    """The value if it matches; a single value where a sequence is expected becomes a tuple."""
    if _is_as_written(known, annotation, value):
        return value
    alone = _alone_in_sequence(annotation, value)
    if alone is not None and _is_as_written(known, annotation, alone):
        return alone
    _refuse_unknown_name(place, annotation, value)
    raise failure(f"{place}: expected {annotation}; received {format_value(value)}.")


def _refuse_unknown_name(place: str, annotation: Any, value: Any) -> None:
    """Raise with the nearest known name if an argument is a name but not one of the literals.

    Raises:
        UnknownNameError: it is.
    """
    names = re.fullmatch(r"Literal\[((?:'\w+'|\"\w+\"|, )+)\]", str(annotation))
    if names and isinstance(value, str):
        known = re.findall(r"\w+", names[1])
        raise UnknownNameError(f"{place}: no {value!r}{nearest(value, known)}")


def _alone_in_sequence(annotation: Any, value: Any) -> tuple[Any] | None:
    """A tuple of a single element where a sequence is expected; else None."""
    is_element = isinstance(value, str | int | float) and not isinstance(value, bool)
    return (value,) if is_element and str(annotation).startswith("Sequence[") else None


def _is_as_written(known: TypeAdapter[Any] | None, annotation: Any, value: Any) -> bool:
    if known is None:  # a class imported for type checkers only is compared by name
        is_class = str(annotation).isidentifier()
        return not is_class or any(one.__name__ == annotation for one in type(value).__mro__)
    if isinstance(value, Iterator):
        # Validation would exhaust an iterator.
        return any(word in str(annotation) for word in ("Iter", "Any", "object"))
    plain = value.item() if isinstance(value, np.generic) else value
    tries = [plain]
    if isinstance(plain, Mapping) and type(plain) is not dict:
        tries.append(dict(plain))
    elif isinstance(plain, Sequence) and not isinstance(plain, str | bytes | list | tuple):
        tries.append(list(plain))
    return any(_passes(known, one) for one in tries)


def _passes(known: TypeAdapter[Any], value: Any) -> bool:
    try:
        known.validate_python(value, strict=True)
    except (ValidationError, TypeError, ValueError, RuntimeError):
        return False  # includes values that cannot even be compared
    return True
