"""Update a Transformers model's configuration to describe the cut model.

``save_pretrained`` writes the configuration, and ``from_pretrained`` builds from it. There is no
table that maps fields to sizes for each architecture. Instead, fields whose value equals a length
that was cut are candidates for the new length. A model is built from the changed configuration on
the meta device, and its tensor shapes are compared with those of the cut model.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from torch import nn

from secateurs.channels.blocks import BlockCut, Numbering
from secateurs.channels.cut import Cut
from secateurs.pytorch.configurations import (
    Configured,
    Shapes,
    answers_alike,
    build_shapes,
    change_fields,
    set_fields_,
    shapes_of,
)

_LOG = logging.getLogger("secateurs")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "num_key_value_heads")
_MOST_FIELDS = 6
"""Maximum number of fields changed together: every subset up to this size may be tried."""
_LAYER = re.compile(r"\.(?:layers?|h|blocks?|block)\.(\d+)\.")
CUT_FIELD = "secateurs_cut"
"""Field in which a configuration stores the cut that its other fields cannot express."""
_COUNTED = ("layer", "depth", "block")
"""Parts of the names of fields that count layers."""

_Changes = dict[str, object]


def describe_cut_(model: nn.Module, cut: Cut, example_inputs: object = None) -> bool:
    """Update ``model.config`` to describe the cut model, where a configuration can.

    Args:
        model: the cut model. A Transformers model's configuration is changed in place; any other
            model is left alone.
        cut: the cut that was made.
        example_inputs: inputs of the model. Fields found by search, for a cut that does not bring
            its own, are accepted if a model built from them gives the same outputs; with None,
            equal shapes suffice.

    Returns:
        Whether the configuration describes the model. False where layers of one kind differ: then
        it records each layer's widths (``per_layer_config``) and the cut, by which
        ``models.build("transformers:DIRECTORY")`` loads what ``save_pretrained`` wrote.
        ``from_pretrained`` itself cannot build it yet, which is logged.
    """
    config: Configured | None = getattr(model, "config", None)
    if not cut or config is None or not hasattr(model, "save_pretrained"):
        return True
    if not hasattr(config, "to_dict"):
        return True
    shapes = shapes_of(model)
    if cut.fields and not cut.blocks and _builds(type(model), config, cut.fields, shapes):
        set_fields_(config, cut.fields)
        return True
    changes = _find_changes(model, config, cut, shapes, example_inputs)
    if changes is not None:
        set_fields_(config, changes)
        return True
    _record_widths_(config, cut)
    cause = "its layers now have different widths"
    if not _layer_widths(config, cut):
        cause = "its configuration has no field for its widths"
    if cut.blocks and not cut.tensors:
        cause = "whole blocks were removed"
    _LOG.warning(
        "%s: %s, so from_pretrained cannot build it yet. Load what save_pretrained writes with "
        "secateurs.models.build('transformers:DIRECTORY'), or use secateurs.save and "
        "secateurs.load. For equal widths in all layers of a kind: uniform=True.",
        type(model).__name__,
        cause,
    )
    return False


def _find_changes(
    model: nn.Module, config: Configured, cut: Cut, shapes: Shapes, example_inputs: object
) -> _Changes | None:
    """Changes of fields by which the configuration describes the cut model; None without any."""
    for changes in () if _layers_differ(cut, shapes) else _combine_changes(config, cut, model):
        if _builds(type(model), config, changes, shapes) and (
            example_inputs is None
            or answers_alike(model, change_fields(config, changes), example_inputs)
        ):
            return changes
    return None


def _layers_differ(cut: Cut, shapes: Shapes) -> bool:
    """Whether layers that had equal widths have different ones now, for which there is no field.

    Args:
        cut: the cut that was made.
        shapes: shapes of the cut model's tensors.
    """
    name_before = Numbering(cut.blocks).before
    left: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
    for name, shape in shapes.items():
        dense_name = name_before(name)
        alike, numbered = _LAYER.subn(".", dense_name, count=1)
        if numbered:
            known = cut.tensors.get(dense_name)
            dense = shape if known is None else tuple(known.shape)
            if left.setdefault((alike, dense), shape) != shape:
                return True
    return False


def _record_widths_(config: Configured, cut: Cut) -> None:
    """Record each layer's widths for readers of the configuration, and the cut for our loader."""
    earlier = getattr(config, CUT_FIELD, None)
    whole = Cut.from_json(earlier).then(cut) if earlier else cut
    setattr(config, CUT_FIELD, whole.to_json())
    widths = _layer_widths(config, whole)
    counted = getattr(config, "num_hidden_layers", None)  # a ResNet's configuration has none
    if widths and isinstance(counted, int) and hasattr(type(config), "per_layer_config"):
        # Transformers' own code may go on reading the dense model's global fields.
        config.allow_global_per_layer_attribute_access = True  # type: ignore[attr-defined]
        # Layers of a head are numbered too, but the configuration does not count them.
        widths = {n: w for n, w in widths.items() if n < counted}
        with contextlib.suppress(ValueError):  # the stored cut suffices for our loader
            config.per_layer_config = widths  # type: ignore[attr-defined]


def _layer_widths(config: Configured, cut: Cut) -> dict[int, dict[str, int]]:
    """Layer -> configuration fields -> their value in that layer, where it is unambiguous."""
    fields, head_width = _list_whole_numbers(config), _head_width(config)
    found: dict[int, dict[str, set[int]]] = {}
    for name, tensor in cut.tensors.items():
        number = _LAYER.search(name)
        if number is None:
            continue
        layer = found.setdefault(int(number[1]), {})
        for axis, removed in tensor.removed.items():
            left = tensor.shape[axis] - len(removed)
            for field, value in _match_fields(fields, head_width, tensor.shape[axis], left):
                layer.setdefault(field, set()).add(value)
    agreed = {
        layer: {field: min(one) for field, one in sets.items() if len(one) == 1}
        for layer, sets in sorted(found.items())
    }
    return {layer: sets for layer, sets in agreed.items() if sets}


def _match_fields(
    fields: Mapping[str, int], head_width: int, length: int, left: int
) -> Iterator[tuple[str, int]]:
    """(field, its new value) for fields that may state the length of an axis of one layer.

    Args:
        fields: whole numbers in the configuration of the dense model.
        head_width: width of a head of attention; 0 where there is none.
        length: length of the axis in the dense model.
        left: its length in the cut one.
    """
    shared = {fields.get(name) for name in ("hidden_size", "n_embd", "d_model", "vocab_size")}
    for field, value in fields.items():
        if value <= 1:
            continue
        if field in _HEADS:
            if head_width and length == value * head_width and left % head_width == 0:
                yield field, left // head_width
        elif value == length and value not in shared:
            yield field, left


def _list_whole_numbers(config: Configured) -> dict[str, int]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def counts_layers(model: nn.Module, path: str, number: int) -> bool:
    """Whether a model's configuration has a field for the length of one of its lists of layers.

    Args:
        model: model before the cut; always False for a model not of Transformers.
        path: path of the list.
        number: index of one of its elements; the model without it is compared.
    """
    config: Configured | None = getattr(model, "config", None)
    if config is None or not hasattr(model, "save_pretrained") or not hasattr(config, "to_dict"):
        return False
    block = BlockCut(f"{path}.{number}", shortens=True)
    after = Numbering([block]).after
    named = ((after(name), shape) for name, shape in shapes_of(model).items())
    shapes = {name: shape for name, shape in named if name is not None}
    count = _count_in(model, path)
    changes = _fewer_layers(config, {path: (count, [number])})
    return any(_builds(type(model), config, one, shapes) for one in changes)


def _count_in(model: nn.Module, path: str) -> int:
    return len(list(model.get_submodule(path).children()))


def _combine_changes(config: Configured, cut: Cut, model: nn.Module) -> Iterator[_Changes]:
    """Every combination of field changes that may describe the cut, layers and widths together."""
    gone: dict[str, list[int]] = {}
    for block in cut.blocks:
        if block.shortens:
            path, _, number = block.owner.rpartition(".")
            gone.setdefault(path, []).append(int(number))
    after = Numbering(cut.blocks).after
    lists = {
        path: (_count_in(model, after(path) or path) + len(numbers), numbers)
        for path, numbers in gone.items()
    }
    for fewer in _fewer_layers(config, lists) if lists else iter([{}]):
        if not cut.tensors:
            yield fewer
        for narrower in _iterate_changes(config, cut):
            yield {**fewer, **narrower}


def _fewer_layers(
    config: Configured, lists: Mapping[str, tuple[int, Sequence[int]]]
) -> Iterator[_Changes]:
    """Field changes that may express the layers left.

    Args:
        config: configuration of the dense model.
        lists: list -> (number of layers before, indices removed).
    """
    fields = {
        name: value
        for name, value in config.to_dict().items()
        if any(part in name for part in _COUNTED)
    }
    options = [_shorten_one(fields, count, gone) for count, gone in lists.values()]
    for chosen in product(*options):
        yield {name: value for one in chosen for name, value in one.items()}


def _shorten_one(fields: Mapping[str, object], count: int, gone: Sequence[int]) -> list[_Changes]:
    """Field changes for one list of layers: its length, with and without one kind per layer."""
    counts = [name for name, value in fields.items() if value == count and type(value) is int]
    kinds = {
        name: [one for place, one in enumerate(value) if place not in gone]
        for name, value in fields.items()
        if isinstance(value, (list, tuple)) and len(value) == count
    }
    left = count - len(gone)
    options: list[_Changes] = [{name: left, **kinds} for name in counts]
    if kinds:
        options += [{name: left} for name in counts]
    return options


def _iterate_changes(config: Configured, cut: Cut) -> Iterator[_Changes]:
    """Every set of width fields that may have changed, the smallest sets first."""
    left: dict[int, set[int]] = {}
    for tensor in cut.tensors.values():
        for axis, removed in tensor.removed.items():
            length = tensor.shape[axis]
            left.setdefault(length, set()).add(length - len(removed))
    plain = _list_whole_numbers(config)
    # Fields of heads hold a count, not a width: the length left is divided by the width of a head.
    found: list[tuple[str, int]] = [
        (name, new) for name, value in plain.items() for new in left.get(value, ())
    ]
    found += [(name, new) for name in _HEADS for new in _heads_left(config, plain, name, left)]
    if getattr(config, "n_inner", 0) is None:  # GPT-2's "four times the width"
        inner = 4 * int(getattr(config, "n_embd", 0))
        found += [("n_inner", new) for new in left.get(inner, ())]
    for count in range(1, min(_MOST_FIELDS, len(found)) + 1):
        for chosen in combinations(found, count):
            changes: _Changes = dict(chosen)
            if len(changes) == count:
                yield _with_head_width(config, changes)


def _heads_left(
    config: Configured, plain: Mapping[str, int], name: str, left: Mapping[int, set[int]]
) -> Iterator[int]:
    heads, width = plain.get(name, 0), _head_width(config)
    for new in left.get(heads * width, ()) if width else ():
        if new % width == 0:
            yield new // width


def _head_width(config: Configured) -> int:
    stated = getattr(config, "head_dim", None)
    if stated:
        return int(stated)
    width = getattr(config, "hidden_size", 0) or 0
    heads = getattr(config, "num_attention_heads", 0) or 0
    if not isinstance(heads, int) or not isinstance(width, int):
        return 0  # models with stages keep a list here
    return width // heads if heads else 0


def _with_head_width(config: Configured, changes: _Changes) -> _Changes:
    """State ``head_dim`` once heads are removed: left unset it would follow from their number."""
    if any(name in _HEADS for name in changes) and hasattr(config, "head_dim"):
        return {"head_dim": _head_width(config), **changes}
    return changes


def _builds(
    kind: type[nn.Module], config: Configured, changes: Mapping[str, object], shapes: Shapes
) -> bool:
    return build_shapes(kind, config, changes) == shapes
