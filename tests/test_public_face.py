"""No public call answers a wrong type with a bare Python error."""

import contextlib
import importlib
import inspect
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateurs as sec
from secateurs.backends import Backend
from secateurs.comparison.settings import Comparison
from secateurs.planning.planner import plan
from support.public_face import JUNK, calls, small_model

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face")
    with contextlib.chdir(folder):  # some junk is a good name of a file
        yield Face(calls(folder))


class Face(list):
    """Calls, which hypothesis would print at length."""

    def __repr__(self):
        return f"{len(self)} calls"


@settings(max_examples=250)
@given(place=st.integers(0, 10**6), value=st.sampled_from(JUNK) | NESTED)
def test_a_wrong_type_is_answered_by_one_line_of_our_own(face, place, value):
    places = [(call, name) for call in face for name in call.arguments]
    call, name = places[place % len(places)]
    if name == "budget" and isinstance(value, str | dict):
        return  # a budget in words: planning's own
    message = "fine"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some values are accepted with a warning is fine
        try:
            call.but(name, value)()
        except sec.SecateursError as error:
            message = str(error)
    assert message.strip()
    assert "\n" not in message


PACKAGES = ("", ".data", ".models", ".report", ".comparison", ".criteria", ".testing",
            ".pytorch", ".keras")  # fmt: skip
HANDED_OUT = {
    # made by the library and handed to users' functions
    "Network", "Gates", "ActivationStatistics", "Call", "Tracer", "Place",
    # a protocol, and flags
    "Executor", "Need",
}  # fmt: skip
NETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "ResNet"}
"""Slow to build; their builder is tried in the face, by name."""


def public_calls():
    """Whatever is callable in a package's ``__all__``, but what backends owe to ``sec``'s verbs."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"secateurs{package}")
        for name in module.__all__:
            value = getattr(module, name)
            is_error = isinstance(value, type) and issubclass(value, BaseException)
            if not (inspect.isfunction(value) or inspect.isclass(value)) or is_error:
                continue
            if name in HANDED_OUT | NETS:
                continue
            if package in (".pytorch", ".keras") and hasattr(Backend, name):
                continue
            found[f"secateurs{package}.{name}"] = value
    return found


@pytest.mark.parametrize("name", public_calls())
def test_junk_in_every_argument_is_answered_by_one_line_of_our_own(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = public_calls()[name]
    kinds = inspect.signature(call).parameters.values()
    names = [one.name for one in kinds if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    chance = random.Random(name)  # noqa: S311 - no secrets here
    for _ in range(20):
        given = {one: chance.choice(JUNK) for one in names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = ""
            try:
                call(**given)
            except sec.SecateursError as error:
                message = str(error)
        assert "\n" not in message


def test_every_verb_is_tried(face):
    verbs = {name for name in sec.__all__ if name[0].islower() and callable(getattr(sec, name))}
    assert verbs <= {call.name for call in face}


@pytest.mark.parametrize(
    "verb", ["apply", "ablate", "prune", "repair", "frontier", "iterate", "compare", "plan"]
)
def test_no_verb_takes_options_it_does_not_name(verb):
    kinds = {one.kind for one in inspect.signature(getattr(sec, verb)).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_what_settings_can_say_the_verbs_can_say():
    def list_arguments(verb):
        return set(inspect.signature(verb).parameters)

    assert set(sec.Pruning.model_fields) <= list_arguments(sec.iterate)
    assert list_arguments(plan) - {"network", "scores"} <= list_arguments(sec.prune)
    apart = {"format", "version", "task", "command", "code"}
    assert set(Comparison.model_fields) - apart <= list_arguments(sec.compare)


def test_what_is_skipped_may_be_one_name_or_the_layer_itself():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 2)
    )
    x = np.zeros((1, 1, 8, 8), np.float32)
    by_name, by_itself, in_a_list = (
        sec.prune(model, x, amount=0.25, skip=skip).cut.channels
        for skip in ("0", model[0], [model[0]])
    )
    assert set(by_name) == set(by_itself) == set(in_a_list) == {"2"}
    with pytest.raises(sec.UnknownNameError, match="a Linear that is not part of it"):
        sec.prune(model, x, amount=0.25, skip=nn.Linear(2, 2))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, values):
        return {"logits": self.last(self.first(values).relu())}


def test_a_network_traced_with_a_dictionary_says_how_its_data_look():
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    labels = np.arange(6) % 3

    def loss(outputs, labels):
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="none")

    net = sec.trace(TwoInputs(), {"values": x[:1]})
    by_name = sec.score(net, "taylor", data=({"values": x}, labels), loss=loss)
    alone = sec.score(net, "taylor", data=(x, labels), loss=loss)  # one input: there is no doubt
    assert np.array_equal(by_name["first"], alone["first"])
    with pytest.raises(sec.DataError, match=r"loss= raised .* a dict with logits \(6, 3\)"):
        sec.score(net, "taylor", data=(x, labels), loss=nn.CrossEntropyLoss(reduction="none"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(2)[[0, 1, 0, 1]], r"one-hot labels of shape \(4, 2\).*argmax"),
        (np.array([0.5, 1.5, 0, 1]), "whole numbers from 0; received float64 such as 0.5"),
        (np.array(["a", "b", "a", "b"]), "expected numbers"),
    ],
)
def test_labels_that_are_no_classes_are_called_that(labels, message):
    images = np.zeros((4, 1, 4, 4), np.float32)
    with pytest.raises(sec.DataError, match=message):
        sec.iterate(small_model(), (images, labels), (images, labels))
