import pickle

import pydantic
import pytest

import secateurs as sec
from secateurs import errors
from secateurs.settings.study import parse_budget


def test_every_error_is_a_secateurs_error():
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    assert len(kinds) == 10
    assert all(issubclass(kind, errors.SecateursError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("tailor", ["l1", "taylor"], "; did you mean 'taylor'?"),
        ("xyz", ["l1", "l2"], "; known: l1, l2"),
        (
            "xyz",
            [f"a{n}" for n in range(21)],
            "; known: " + ", ".join(f"a{n}" for n in range(20)) + ", ...",
        ),
    ],
)
def test_the_nearest_name_else_those_there_are(name, known, text):
    assert errors.nearest(name, known) == text


def test_any_error_fits_on_one_line():
    assert errors.in_one_line(ValueError("a\n  b")) == "a b"
    assert errors.in_one_line(KeyError()) == "KeyError"

    class Inner(pydantic.BaseModel):
        rounds: int

    class Outer(pydantic.BaseModel):
        stop: Inner

    with pytest.raises(pydantic.ValidationError) as raised:
        Outer(stop={"rounds": "x"})
    found = errors.in_one_line(raised.value)
    assert found.startswith("stop.rounds: expected a valid integer")


def test_what_came_in_from_outside_is_shortened_in_its_middle():
    with pytest.raises(sec.SecateursError) as caught:
        parse_budget("params=" + "[" * 5000)
    message = str(caught.value)
    assert len(message) < 1600
    assert " [...] " in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # noqa: S301 - our own


def test_short_messages_are_as_they_are():
    assert str(sec.StudyError("a" * 1500)) == "a" * 1500


USERS = """
import numpy as np

def add():
    return np.zeros(3) + np.zeros(4)  # line 5

def call(function):
    return function()
"""


@pytest.fixture
def users(tmp_path):
    """A module of a user's own."""
    path = tmp_path / "mine.py"
    path.write_text(USERS)
    inside = {}
    exec(compile(USERS, path, "exec"), inside)  # noqa: S102 - as importing it would
    return inside


def test_an_error_in_a_package_is_of_the_users_line_that_called_it(users):
    with pytest.raises(ValueError, match="broadcast") as raised:
        users["add"]()
    assert errors.find_user_line(raised.value).lineno == 5
    assert errors.describe_raised(raised.value) == (
        "ValueError: operands could not be broadcast together with shapes (3,) (4,) "
        "(line 5 of mine.py)"
    )


def test_an_error_of_ours_below_the_users_code_is_ours(users):
    with pytest.raises(TypeError) as raised:
        users["call"](lambda: errors.nearest(None, ["a"]))
    assert errors.find_user_line(raised.value) is None
