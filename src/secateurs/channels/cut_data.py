"""Schema of a cut as JSON, and the check that its parts are consistent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from secateurs.errors import CheckpointError

Natural = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Whole = Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)]
Factor = Annotated[float, Field(allow_inf_nan=False)]
Costs = tuple[Natural, Natural, Natural, Natural]


_Names = tuple[StrictStr, ...]
_Block = tuple[StrictStr, _Names, StrictStr, Natural, StrictStr, Natural, StrictBool]
_GraphBlock = tuple[StrictStr, _Names, StrictStr, Natural, StrictStr, Natural, StrictBool, _Names]
"""A block that is not a module of its own; the last item lists the layers to remove."""


class CutData(BaseModel):
    """Fields of a cut as JSON; other fields refer to the lists in ``sets`` by index.

    Attributes:
        tensors: name -> (shape, axis -> index of a set).
        channels: group -> (number of channels, index of a set).
        sizes: (owner, attribute, position, before, after).
        rescalings: (tensor, axis, index of a set, factor).
        before: parameters, multiply-accumulates, bytes, channels.
        after: likewise.
        caches: (owner, attribute, key, whether its size is checked).
        blocks: (owner, kept children, activation, position and name of the input, length of the
            returned tuple, whether its list gets shorter).
        fields: path of a configuration's field -> its value.
        sets: lists of ascending indices.
    """

    model_config = ConfigDict(frozen=True)

    tensors: dict[StrictStr, tuple[tuple[Natural, ...], dict[Natural, Natural]]]
    channels: dict[StrictStr, tuple[Natural, Natural]]
    sizes: tuple[tuple[StrictStr, StrictStr, Whole | StrictStr | None, Whole, Whole], ...]
    rescalings: tuple[tuple[StrictStr, Natural, Natural, Factor], ...]
    before: Costs | None
    after: Costs | None
    caches: tuple[tuple[StrictStr, StrictStr, StrictStr | None, StrictBool], ...] = ()
    blocks: tuple[_Block | _GraphBlock, ...] = ()
    fields: dict[StrictStr, Natural | Factor] = {}
    sets: tuple[tuple[Natural, ...], ...]


def check_cut_data(data: Mapping[str, Any]) -> CutData:
    """Parse a cut's fields, and check each by itself and against the others.

    Args:
        data: as ``Cut.to_dict`` returns it; axes are strings, as keys in JSON are.

    Raises:
        CheckpointError: a field is wrong; the message says which.
    """
    try:
        fields = CutData(
            **{key: _with_axes(data[key], key) for key in CutData.model_fields if key in data}
        )
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:60] for part in problem["loc"])
        raise _damage_error(where, problem["msg"].replace("Input should be", "expected")) from error
    for where, fault in _misfits(fields):
        raise _damage_error(where, fault)
    return fields


def _damage_error(where: str, fault: str) -> CheckpointError:
    return CheckpointError(
        f"this cut is damaged at {where}: {fault}. Use the file as it was written, or plan again."
    )


def _with_axes(value: Any, key: str) -> Any:
    """Convert the keys of the tensors to integers; whatever has another form is left as it is."""
    if key != "tensors" or not isinstance(value, dict):
        return value
    return {name: _with_numbers(entry) for name, entry in value.items()}


def _with_numbers(entry: Any) -> Any:
    is_pair = isinstance(entry, list | tuple) and len(entry) == len(("shape", "removed"))
    if not is_pair or not isinstance(entry[1], dict):
        return entry
    numbers = {_as_axis(axis): at for axis, at in entry[1].items()}
    return (entry[0], numbers)


def _as_axis(text: Any) -> Any:
    is_number = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 4
    return int(text) if is_number else text


def _misfits(fields: CutData) -> Iterator[tuple[str, str]]:
    """Yield (where, what is wrong) for every inconsistency between fields."""
    for number, indices in enumerate(fields.sets):
        if any(left >= right for left, right in itertools.pairwise(indices)):
            yield f"sets.{number}", "expected rising indices; received others"
    for name, (shape, removed) in fields.tensors.items():
        for axis, at in removed.items():
            length = shape[axis] if axis < len(shape) else None
            if length is None:
                yield f"tensors.{name}", f"expected an axis of {list(shape)}; received {axis}"
            else:
                yield from _beyond(fields.sets, at, length, f"tensors.{name}")
    for name, (of, at) in fields.channels.items():
        yield from _beyond(fields.sets, at, of, f"channels.{name}")
    yield from _check_blocks(fields)
    for name, axis, at, _ in fields.rescalings:
        shape, _ = fields.tensors.get(name, ((), {}))
        if shape and axis >= len(shape):
            yield f"rescalings.{name}", f"expected an axis of {list(shape)}; received {axis}"
        else:
            yield from _beyond(
                fields.sets, at, shape[axis] if shape else None, f"rescalings.{name}"
            )


def _check_blocks(fields: CutData) -> Iterator[tuple[str, str]]:
    for owner, _, _, _, _, _, shortens, *_ in fields.blocks:
        number = owner.rpartition(".")[2]
        if not owner or (shortens and not (number.isascii() and number.isdecimal())):
            yield "blocks", f"expected the path of a block; received {owner[:60]!r}"


def _beyond(
    sets: Sequence[Sequence[int]], at: int, length: int | None, where: str
) -> Iterator[tuple[str, str]]:
    """Yield a fault if the index of a set, or an index in the set, is out of range."""
    if at >= len(sets):
        yield where, f"expected the number of one of {len(sets)} sets; received {at}"
    elif length is not None and sets[at] and sets[at][-1] >= length:
        yield where, f"expected indices below {length}; received {sets[at][-1]}"
