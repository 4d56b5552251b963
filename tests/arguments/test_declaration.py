import dataclasses

import pytest
import torch

import secateurs as sec
from secateurs.arguments.declaration import Kind, takes
from secateurs.errors import CutError, SecateursError, UnknownNameError

EVEN = Kind("an even number", lambda value: value % 2 == 0, CutError, "Such as 2.")


@takes(number=EVEN, other=EVEN.or_none())
def halve(number, other=None, *, free=0):
    """Half of it."""
    return number // 2, other, free


def test_valid_arguments_are_accepted():
    assert halve(4) == (2, None, 0)
    assert halve(other=6, number=8, free="x") == (4, 6, "x")
    assert halve.__doc__ == "Half of it."


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((3,), {}, "halve: number: expected an even number; received int 3. Such as 2."),
        ((2,), {"other": 5}, "halve: other: expected an even number, or None; received int 5."),
    ],
)
def test_invalid_arguments_are_refused_before_the_function_runs(arguments, keywords, message):
    with pytest.raises(CutError) as raised:
        halve(*arguments, **keywords)
    assert str(raised.value).startswith(message)


def test_an_unknown_keyword_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="halve: no argument 'numbr'; did you mean 'number'"):
        halve(numbr=2)


def test_too_many_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match="too many positional arguments"):
        halve(2, 4, 6)


def test_a_declaration_of_no_parameter_is_found_at_once():
    with pytest.raises(NameError, match=r"has no parameters \['numbr'\]"):
        takes(numbr=EVEN)(lambda number: number)


def test_without_a_fix_the_message_ends_with_what_was_received():
    with pytest.raises(SecateursError, match=r"f: a: expected a b; received int 1\.$"):
        Kind("a b", lambda _: False).check("f", "a", 1)


def test_a_class_names_the_nearest_of_its_arguments():
    with pytest.raises(UnknownNameError, match=r"Budget: no argument 'latancy'.*'latency'"):
        sec.Budget(latancy=0.5)
    with pytest.raises(UnknownNameError, match=r"Augmentation: no argument 'flips'.*'flip'"):
        sec.Augmentation(flips=True)
    assert sec.Budget(macs=0.5) == dataclasses.replace(sec.Budget(macs=0.4), macs=0.5)


SEVERAL = Kind("even numbers", lambda value: isinstance(value, list)).or_one_of(
    lambda value: value is None or isinstance(value, int)
)


@takes(numbers=SEVERAL, maybe=SEVERAL.or_none())
def add(numbers, maybe=()):
    """All of them."""
    return numbers, maybe


def test_a_single_value_is_accepted_as_a_sequence():
    assert add(3) == ((3,), ())
    assert add([3, 4], maybe=5) == ([3, 4], (5,))
    assert add(numbers=None, maybe=None) == ((None,), None)
    with pytest.raises(SecateursError, match="add: numbers: expected even numbers; received str"):
        add("3")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: sec.prune(m, x, macs=0.5), r"pass budget=secateurs.Budget\(macs=...\)"),
        (lambda m, x: sec.iterate(m, x, x, rounds=2), r"pass stop=secateurs.Stop\(rounds=...\)"),
        (
            lambda m, x: sec.iterate(m, x, x, fine_tune_batches=2),
            r"pass training=secateurs.Training\(fine_tune_batches=...\)",
        ),
        (lambda m, x: sec.iterate(m, x, x, crieterion="l1"), "criterion"),
    ],
)
def test_a_field_of_an_arguments_class_is_answered_with_that_argument(call, message):
    model = torch.nn.Linear(4, 2)
    with pytest.raises(sec.UnknownNameError, match=message):
        call(model, torch.zeros(3, 4))
