"""A public function declares what its arguments have to be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from secateurs.arguments.values import format_value
from secateurs.errors import SecateursError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument has to be.

    Attributes:
        expected: in words, after "expected".
        accepts: whether a value is one.
        failure: the error where it is not.
        fix: the call that makes one; or ''.
    """

    expected: str
    accepts: Callable[[Any], bool]
    failure: type[SecateursError] = SecateursError
    fix: str = ""

    def check(self, caller: str, name: str, value: Any) -> None:
        """Raise where the value is not of this kind."""
        if not self.accepts(value):
            fix = f" {self.fix}" if self.fix else ""
            raise self.failure(
                f"{caller}: {name}: expected {self.expected}; received {format_value(value)}.{fix}"
            )

    def or_none(self) -> Kind:
        """The same, where None is as good."""
        return Kind(
            f"{self.expected}, or None",
            lambda value: value is None or self.accepts(value),
            self.failure,
            self.fix,
        )


def takes(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function's arguments are of these kinds, or it raises before it begins."""

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        unknown = set(kinds) - set(signature.parameters)
        if unknown:  # a slip of ours, found when the module is imported
            raise NameError(f"{function.__name__} has no parameters {sorted(unknown)}")

        @functools.wraps(function)
        def check_and_call(*arguments: P.args, **keywords: P.kwargs) -> R:
            # What does not bind at all is the call's own TypeError, which names the parameter.
            given = signature.bind_partial(*arguments, **keywords).arguments
            for name, value in given.items():
                if name in kinds:
                    kinds[name].check(function.__name__, name, value)
            return function(*arguments, **keywords)

        return check_and_call

    return declare
