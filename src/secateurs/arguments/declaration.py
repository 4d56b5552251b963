"""Declaration of the kinds of a public function's arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from secateurs.arguments.values import format_value
from secateurs.errors import SecateursError, UnknownNameError, nearest

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=object)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of argument.

    Attributes:
        expected: description after the word "expected" in messages.
        accepts: function that tells whether a value is of this kind.
        failure: error class for other values.
        fix: example of a correct call; or ''.
        read: function from an accepted value to what is passed on; None passes it unchanged.
    """

    expected: str
    accepts: Callable[[Any], bool]
    failure: type[SecateursError] = SecateursError
    fix: str = ""
    read: Callable[[Any], Any] | None = None

    def check(self, caller: str, name: str, value: Any) -> None:
        """Raise if a value is not of this kind."""
        if not self.accepts(value):
            fix = f" {self.fix}" if self.fix else ""
            raise self.failure(
                f"{caller}: {name}: expected {self.expected}; received {format_value(value)}.{fix}"
            )

    def or_none(self) -> Kind:
        """The same kind, or None."""
        return Kind(
            f"{self.expected}, or None",
            lambda value: value is None or self.accepts(value),
            self.failure,
            self.fix,
            _unless_none(self.read),
        )

    def or_one_of(self, element: Callable[[Any], bool]) -> Kind:
        """The same kind, or a single element, which is passed on as a tuple."""
        return Kind(
            self.expected,
            lambda value: element(value) or self.accepts(value),
            self.failure,
            self.fix,
            lambda value: (value,) if element(value) else value,
        )


def _unless_none(read: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return None if read is None else lambda value: None if value is None else read(value)


def refuse_unknown_keywords(
    function: Callable[..., Any], signature: inspect.Signature, keywords: Mapping[str, Any]
) -> None:
    """Raise if a keyword is not a parameter of the function.

    Too few or too many arguments are left to Python, whose own message is sufficient.

    Raises:
        UnknownNameError: there is such a keyword; the message suggests the nearest parameter.
    """
    parameters = signature.parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in keywords:
        if name not in parameters:
            known = [one for one in parameters if one != "self"]
            caller = function.__qualname__.removesuffix(".__init__")
            found = _argument_with_field(function, name)
            hint = nearest(name, known) if found is None else f"; pass {found}"
            raise UnknownNameError(f"{caller}: no argument {name!r}{hint}")


def _argument_with_field(function: Callable[..., Any], name: str) -> str | None:
    """Code for the argument whose class has such a field: ``stop=secateurs.Stop(rounds=...)``."""
    try:
        hints = get_type_hints(function)
    except NameError:  # an annotation that only type checkers import
        return None
    for argument, hint in hints.items():
        for kind in (hint, *get_args(hint)):
            fields: Any = getattr(kind, "model_fields", None)
            fields = fields or getattr(kind, "__dataclass_fields__", ())
            if argument != "return" and isinstance(kind, type) and name in fields:
                return f"{argument}=secateurs.{kind.__name__}({name}=...)"
    return None


def takes_known_names(made: type[T]) -> type[T]:
    """A class decorator: unknown keywords raise an error that suggests the nearest one."""
    make = made.__init__
    signature = inspect.signature(make)

    @functools.wraps(make)
    def check_and_make(self: T, *arguments: Any, **keywords: Any) -> None:
        refuse_unknown_keywords(make, signature, keywords)
        make(self, *arguments, **keywords)

    made.__init__ = check_and_make  # type: ignore[method-assign, assignment]
    return made


def takes(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that checks that a function's arguments are of these kinds before each call."""

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        unknown = set(kinds) - set(signature.parameters)
        if unknown:  # a programming error, found at import
            raise NameError(f"{function.__name__} has no parameters {sorted(unknown)}")

        @functools.wraps(function)
        def check_and_call(*arguments: P.args, **keywords: P.kwargs) -> R:
            refuse_unknown_keywords(function, signature, keywords)
            bound = signature.bind_partial(*arguments, **keywords)
            given = bound.arguments
            for name, value in given.items():
                if name in kinds:
                    kinds[name].check(function.__name__, name, value)
            read = {name: kinds[name].read for name in given if name in kinds}
            changed = {name: use(given[name]) for name, use in read.items() if use is not None}
            if not changed:
                return function(*arguments, **keywords)
            given.update(changed)
            return function(*bound.args, **bound.kwargs)

        return check_and_call

    return declare
