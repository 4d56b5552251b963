"""What the public calls take, said once: a wrong type is refused on one line, with the fix.

A public function declares what its arguments have to be::

    @takes(network=NETWORK, seed=SEED)
    def score(network, criterion="l1", *, seed=0): ...

Only what a type can tell is looked at here; whether the values fit each other is for the function
itself, which knows them.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np

from secateurs.errors import (
    BudgetError,
    CutError,
    DataError,
    ModelError,
    SecateursError,
    StudyError,
    UnknownNameError,
)

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


def format_value(value: Any, most: int = 60) -> str:
    """A value for a message: its type, and itself where it is short.

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


def is_whole(value: Any, least: int = 0) -> bool:
    """Whether a value is a whole number of at least ``least``; True and False are none."""
    return isinstance(value, numbers.Integral) and not _is_truth(value) and int(value) >= least


def are_whole(value: Any, least: int = 0, *, or_none: bool = False) -> bool:
    """Whether a value is one or more whole numbers, in a list or such."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return False
    return len(value) > 0 and all(
        is_whole(one, least) or (or_none and one is None) for one in value
    )


def is_labels(value: Any) -> bool:
    """Whether a value is one or more names, paths or whole numbers, all of one type."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    if getattr(value, "ndim", 1) != 1 or not isinstance(value, Iterable):
        return False
    kinds = {str if isinstance(one, str) else type(one) for one in value}
    return len(kinds) == 1 and issubclass(kinds.pop(), str | os.PathLike | numbers.Integral)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number; True and False are none."""
    real = isinstance(value, numbers.Real) and not _is_truth(value)
    return real and math.isfinite(float(value))


def is_path(value: Any) -> bool:
    """Whether a value can be the path of a file."""
    return (
        isinstance(value, str | os.PathLike) and "\0" not in os.fspath(value) and bool(str(value))
    )


def whole_number(least: int = 0) -> Kind:
    """A whole number of at least ``least``."""
    return Kind(f"a whole number of at least {least}", lambda value: is_whole(value, least))


def instance(kind: type, expected: str, failure: type[SecateursError], fix: str = "") -> Kind:
    """An instance of a class."""
    return Kind(expected, lambda value: isinstance(value, kind), failure, fix)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_names(value: Any) -> bool:
    several = isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)
    return several and all(isinstance(one, str) and one for one in value)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and all(is_number(one) for one in list(value))


def _is_channels(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        (isinstance(name, str) or _is_layer(name)) and _is_indices(indices)
        for name, indices in value.items()
    )


def _is_indices(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return False
    if getattr(value, "ndim", 1) != 1:
        return False
    return all(isinstance(one, numbers.Integral) and not _is_truth(one) for one in list(value))


def _is_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and hasattr(values, "__len__") for name, values in value.items()
    )


def _is_output(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or is_whole(value)


def _is_criterion(value: Any) -> bool:
    return isinstance(value, str) or _is_function(value)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not _is_layer(value)


SEED = whole_number()
SHARE = Kind("a number in (0, 1)", lambda value: is_number(value) and 0 < value < 1)
NUMBER = Kind("a finite number", is_number)
THRESHOLD = Kind(
    "a number",
    lambda value: (
        isinstance(value, numbers.Real) and not _is_truth(value) and not math.isnan(value)
    ),
)
NUMBERS = Kind("several numbers, such as (0.25, 0.5)", _is_numbers)
FLAG = Kind("True or False", _is_truth)
FUNCTION = Kind("a function", _is_function)
LOSS = Kind(
    "a function (outputs, labels) -> one loss for each example",
    lambda value: callable(value) and not isinstance(value, type),
    fix="loss=torch.nn.CrossEntropyLoss(reduction='none') is one.",
).or_none()
CRITERION = Kind(
    "a criterion's name, or a function of Facts",
    _is_criterion,
    UnknownNameError,
    "secateurs criteria lists the names; 'l1' is one.",
)
CRITERION_LIST = Kind(
    "a list of criteria, each a name or a function of Facts",
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(map(_is_criterion, value))
    ),
    UnknownNameError,
    "Put a single one in a list: ['l1'].",
)
NAMES = Kind(
    "a list of names",
    _is_names,
    UnknownNameError,
    "Put a single name in a list: ['conv1']; a module's name is in dict(model.named_modules()).",
)
OPTIMIZER = Kind(
    "the model's optimizer",
    lambda value: hasattr(value, "param_groups") or hasattr(value, "apply_gradients"),
).or_none()
PATH = Kind("the path of a file", is_path, StudyError)
CHANNELS = Kind(
    "a mapping of layers or their names to lists of whole numbers",
    _is_channels,
    CutError,
    "Such as {'layer1.0.conv1': [0, 4]}.",
)
SCORES = Kind(
    "scores by group, as secateurs.score returns them",
    _is_scores,
    SecateursError,
    "scores = secateurs.score(network, 'l1').",
)
MODEL = Kind(
    "a torch.nn.Module or a keras.Model",
    lambda value: (
        not isinstance(value, type | str | bytes | numbers.Number | Mapping | list | tuple)
        and value is not None
    ),
    ModelError,
    "Pass the model itself, not its class, name, path or state.",
)
DATA_GIVEN = Kind(
    "calibration data",
    lambda value: not isinstance(value, str | bytes | numbers.Number | type),
    DataError,
    "Pass data=(images, labels), two arrays, or an iterable of such batches.",
)
TEXT = Kind("text", lambda value: isinstance(value, str))
LAYERS = Kind(
    "names of groups or layers, or the layers themselves",
    lambda value: isinstance(value, str) or _is_layer(value) or _are_layers(value),
    UnknownNameError,
    "Such as skip=['conv1', 'layer1.*'].",
)
BUDGET = Kind(
    "a Budget, or what makes one",
    lambda value: isinstance(value, str | Mapping) or hasattr(value, "limits"),
    BudgetError,
    "Such as secateurs.Budget(macs=0.5), 'macs=0.5' or {'macs': 0.5}; or amount=0.5, of the "
    "channels.",
).or_none()
OUTPUTS = Kind(
    "an output's name or place, or several",
    lambda value: (
        _is_output(value)
        or (
            isinstance(value, Sequence)
            and not isinstance(value, bytes)
            and len(value) > 0
            and all(map(_is_output, value))
        )
    ),
    UnknownNameError,
    "Such as outputs=['logits'].",
).or_none()
PROOF = Kind(
    'True, False or "independent"',
    lambda value: _is_truth(value) or (isinstance(value, str) and value == "independent"),
    CutError,
)
SENSITIVITY = Kind(
    "what secateurs.sensitivity measured", lambda value: hasattr(type(value), "damage")
)


def layer_names(model: Any, wanted: Any) -> tuple[str, ...]:
    """The names of layers that were given by name, or themselves, one or several.

    Args:
        model: whose layers they are.
        wanted: a name or a layer, or several.

    Raises:
        UnknownNameError: a layer is not one of the model's.
    """
    several = [wanted] if isinstance(wanted, str) or _is_layer(wanted) else list(wanted)
    return tuple(one if isinstance(one, str) else _name_of(model, one) for one in several)


def _name_of(model: Any, layer: Any) -> str:
    if hasattr(model, "named_modules"):
        known = next((name for name, one in model.named_modules() if one is layer), None)
        # Keras models on PyTorch are modules too, whose layers are known by their own names.
        if known and not hasattr(layer, "get_config"):
            return str(known)
    flat = getattr(model, "layers", ())
    if any(one is layer for one in flat):
        return str(layer.name)
    raise UnknownNameError(
        f"expected a layer of {type(model).__name__}; received a {type(layer).__name__} that is "
        "none of its. Give its name, as in dict(model.named_modules())."
    )


def _is_layer(value: Any) -> bool:
    """Whether this is a module of PyTorch or a layer of Keras; neither is imported to tell."""
    kind = type(value)
    return hasattr(kind, "named_parameters") or hasattr(kind, "get_config")


def _are_layers(value: Any) -> bool:
    several = isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes)
    return several and all((isinstance(one, str) and one) or _is_layer(one) for one in value)
