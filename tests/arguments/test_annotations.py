from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import pytest

from secateurs.arguments.annotations import takes_as_annotated
from secateurs.errors import BudgetError, SecateursError, UnknownNameError


class Named(Protocol):
    name: str


class Box:
    pass


@takes_as_annotated(BudgetError)
def call(
    number: int = 0,
    share: float | None = None,
    names: Sequence[str] = (),
    table: Mapping[str, int] | None = None,
    way: Literal["up", "down"] = "up",
    box: Box | None = None,
    any_one: Named | None = None,
    many: Iterable[int] = (),
    later: NotThere | None = None,  # noqa: F821
):
    return number


@pytest.mark.parametrize(
    "keywords",
    [
        {"number": np.int64(3)},
        {"share": 0.5},
        {"names": ("a",)},
        {"table": {"a": 1}},
        {"way": "down"},
        {"box": Box()},
        {"any_one": object()},  # a protocol is not told at run time
        {"many": iter([1])},  # to look at it would use it up
        {"later": 3},  # a name for type checkers alone
    ],
)
def test_values_of_the_annotated_type_are_accepted(keywords):
    assert call(**keywords) == keywords.get("number", 0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"number": "3"}, "call: number: expected int; received str '3'."),
        ({"number": True}, "call: number: expected int; received bool True."),
        ({"names": [1]}, "call: names: expected Sequence[str]; received list of 1."),
        (
            {"table": {"a": "b"}},
            "call: table: expected Mapping[str, int] | None; received dict of 1.",
        ),
        ({"names": iter("ab")}, "call: names: expected Sequence[str]; received str_"),
    ],
)
def test_values_of_another_type_are_refused(keywords, message):
    with pytest.raises(BudgetError) as raised:
        call(**keywords)
    assert str(raised.value).startswith(message)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="call: way: no 'dwon'; did you mean 'down'"):
        call(way="dwon")


def test_a_class_names_itself():
    class Held:
        @takes_as_annotated()
        def __init__(self, size: int):
            self.size = size

    assert Held(3).size == 3
    with pytest.raises(SecateursError, match="Held: size: expected int"):
        Held("3")
