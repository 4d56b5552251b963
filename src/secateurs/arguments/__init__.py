"""Checks of the arguments of public functions: a wrong type raises a one-line error with the fix.

A public function declares the kinds of its arguments::

    @takes(network=NETWORK, seed=SEED)
    def score(network, criterion="l1", *, seed=0): ...

Only properties of single values are checked here; whether values fit each other is for the function
itself to check.
"""

from secateurs.arguments.annotations import takes_as_annotated
from secateurs.arguments.declaration import Kind, takes, takes_known_names
from secateurs.arguments.kinds import (
    BUDGET,
    CHANNELS,
    CRITERION,
    CRITERION_LIST,
    DATA_GIVEN,
    FLAG,
    FUNCTION,
    LAYERS,
    LOSS,
    MODEL,
    NAMES,
    NUMBER,
    NUMBERS,
    ONE_OR_MORE_NAMES,
    OPTIMIZER,
    OUTPUTS,
    PATH,
    PROOF,
    SCORES,
    SEED,
    SENSITIVITY,
    SHARE,
    TEXT,
    THRESHOLD,
    instance,
    whole_number,
)
from secateurs.arguments.layers import layer_names
from secateurs.arguments.values import (
    are_whole,
    format_value,
    is_labels,
    is_number,
    is_path,
    is_whole,
)

__all__ = [
    # declarations
    "Kind",
    "takes",
    "takes_as_annotated",
    "takes_known_names",
    # kinds of arguments
    "BUDGET",
    "CHANNELS",
    "CRITERION",
    "CRITERION_LIST",
    "DATA_GIVEN",
    "FLAG",
    "FUNCTION",
    "LAYERS",
    "LOSS",
    "MODEL",
    "NAMES",
    "NUMBER",
    "NUMBERS",
    "ONE_OR_MORE_NAMES",
    "OPTIMIZER",
    "OUTPUTS",
    "PATH",
    "PROOF",
    "SCORES",
    "SEED",
    "SENSITIVITY",
    "SHARE",
    "TEXT",
    "THRESHOLD",
    "instance",
    "whole_number",
    # values
    "are_whole",
    "format_value",
    "is_labels",
    "is_number",
    "is_path",
    "is_whole",
    # layers
    "layer_names",
]
