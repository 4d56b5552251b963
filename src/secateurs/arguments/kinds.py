"""Kinds of arguments of the public functions, each defined once."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secateurs.arguments.declaration import Kind
from secateurs.arguments.layers import are_layers, is_layer
from secateurs.arguments.values import is_number, is_path, is_truth, is_whole
from secateurs.errors import (
    BudgetError,
    CutError,
    DataError,
    ModelError,
    SecateursError,
    StudyError,
    UnknownNameError,
)


def whole_number(least: int = 0, most: int | None = None) -> Kind:
    """An integer of at least ``least``, and at most ``most`` if that is given."""
    if most is None:
        return Kind(f"a whole number of at least {least}", lambda value: is_whole(value, least))
    expected = f"a whole number from {least} to {most:,}"
    return Kind(expected, lambda value: is_whole(value, least) and value <= most)


def instance(kind: type, expected: str, failure: type[SecateursError], fix: str = "") -> Kind:
    """An instance of a class."""
    return Kind(expected, lambda value: isinstance(value, kind), failure, fix)


def _is_names(value: Any) -> bool:
    several = isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)
    return several and all(isinstance(one, str) and one for one in value)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and all(is_number(one) for one in list(value))


def _is_channels(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        (isinstance(name, str) or is_layer(name)) and (is_whole(indices) or _is_indices(indices))
        for name, indices in value.items()
    )


def _read_channels(value: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: [ids] if is_whole(ids) else ids for name, ids in value.items()}


def _is_indices(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return False
    if getattr(value, "ndim", 1) != 1:
        return False
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return True
    kinds = set(map(type, list(value)))  # few, even of thousands of indices
    return all(issubclass(kind, numbers.Integral) and not issubclass(kind, bool) for kind in kinds)


def _is_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and hasattr(values, "__len__") for name, values in value.items()
    )


def _is_output(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or is_whole(value)


def _is_criterion(value: Any) -> bool:
    return isinstance(value, str) or _is_function(value)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not is_layer(value)


SEED = whole_number()
SHARE = Kind("a number in (0, 1)", lambda value: is_number(value) and 0 < value < 1)
NUMBER = Kind("a finite number", is_number)
THRESHOLD = Kind(
    "a number",
    lambda value: isinstance(value, numbers.Real) and not is_truth(value) and not math.isnan(value),
)
NUMBERS = Kind("several numbers, such as (0.25, 0.5)", _is_numbers).or_one_of(is_number)
FLAG = Kind("True or False", is_truth)
FUNCTION = Kind("a function", _is_function)
LOSS = Kind(
    "a function (outputs, labels) -> one loss for each example",
    lambda value: callable(value) and not isinstance(value, type),
    fix="loss=torch.nn.CrossEntropyLoss(reduction='none') is one.",
).or_none()
CRITERION = Kind(
    "a criterion's name, or a function of GroupData",
    _is_criterion,
    UnknownNameError,
    "secateurs criteria lists the names; 'l1' is one.",
)
CRITERION_LIST = Kind(
    "a list of criteria, each a name or a function of GroupData",
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(map(_is_criterion, value))
    ),
    UnknownNameError,
    "Such as ['l1', 'taylor'].",
).or_one_of(_is_criterion)
NAMES = Kind(
    "a list of names",
    _is_names,
    UnknownNameError,
    "Such as ['conv1']; a module's name is in dict(model.named_modules()).",
)
ONE_OR_MORE_NAMES = NAMES.or_one_of(lambda value: isinstance(value, str) and bool(value))
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
    _read_channels,
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
    lambda value: isinstance(value, str) or is_layer(value) or are_layers(value),
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
    lambda value: is_truth(value) or (isinstance(value, str) and value == "independent"),
    CutError,
)
SENSITIVITY = Kind(
    "what secateurs.sensitivity measured", lambda value: hasattr(type(value), "damage")
)
