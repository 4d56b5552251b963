"""Query a Transformers configuration: which of its numbers sets which width of the model.

There is no table of widths. For each value in question a model is built on the meta device. A cut
counts as expressible in the configuration only if the model that ``from_pretrained`` builds from it
gives the outputs of the cut one.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, cast

import torch
from torch import nn

from secateurs.channels.configuration import Fields
from secateurs.channels.cut import Cut
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.model.outputs import named_outputs
from secateurs.pytorch.surgery.slicing import cut_copy

Shapes = dict[str, tuple[int, ...]]
_TIMES_EPSILON = 100.0
"""Tolerance in machine epsilons: both models run the same operations in the same order."""
_TIMES_EPSILON_DRAWN = 1000.0
"""Tolerance for random weights, whose sharp attention amplifies rounding.

A wrong attention scale differs by about a hundred times as much.
"""
_DERIVED_WIDTH = re.compile("inner|dim|size|width")
_CRITICAL = 50
_LEAST_RATIO = 0.25
"""Smaller floats are taken for rates and tolerances, not for ratios of widths."""


class Configured(Protocol):
    """The interface of a Transformers configuration; its fields differ from model to model."""

    def to_dict(self) -> dict[str, object]: ...
    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> object: ...


@dataclass(frozen=True, eq=False)
class TransformersConfiguration:
    """``model.config``, as the planner queries it.

    Attributes:
        model: a Transformers model; unchanged.
        example_inputs: inputs of its forward pass.
    """

    model: nn.Module
    example_inputs: object
    _known: dict[object, Shapes | None] = field(default_factory=dict)

    @property
    def _config(self) -> Configured:
        return cast(Configured, self.model.config)

    @cached_property
    def numbers(self) -> Fields:
        """Integers above one, ratios, and widths that are None and derived from other fields."""
        return {**_numbers_in(self._config), **self.unsaid}

    @cached_property
    def unsaid(self) -> Fields:
        """Widths left None and derived, as in the protocol: a feed-forward's, a head's."""
        found: dict[str, int] = {}
        dense = shapes_of(self.model)
        lengths = {length for shape in dense.values() if len(shape) > 1 for length in shape}
        for name, value in self._config.to_dict().items():
            if value is None and _DERIVED_WIDTH.search(name):
                for length in sorted(lengths - {1}):
                    same = self._build({name: length}) == dense
                    if same and self._build({name: length // 2}) not in (dense, None):
                        found[name] = length
                        break
        for name, value in head_width(self._config).items():
            is_read = self._build({**found, name: value // 2}) != dense
            if is_read and self._build({**found, name: value}) == dense:
                found[name] = value
        return found

    def shapes(self, fields: Fields) -> Mapping[str, tuple[int, ...]] | None:
        """Tensor shapes of a model with these fields, as in the protocol."""
        return self._build({**self.unsaid, **fields})

    def _build(self, fields: Fields) -> Shapes | None:
        key = tuple(sorted(fields.items()))
        if key not in self._known:
            self._known[key] = build_shapes(type(self.model), self._config, fields)
        return self._known[key]

    def rebuilds(self, cut: Cut, fields: Fields) -> bool:
        """As in the protocol; both models are run on the example inputs."""
        small = cut_copy(self.model, cut).eval()
        if self.shapes(fields) != shapes_of(small):
            return False
        changed = change_fields(self._config, {**self.unsaid, **fields})
        return answers_alike(small, changed, self.example_inputs)


def configuration_of(model: nn.Module, example_inputs: object) -> TransformersConfiguration | None:
    """A Transformers model's configuration; None for any other model."""
    config = getattr(model, "config", None)
    if not hasattr(model, "save_pretrained") or not hasattr(config, "to_dict"):
        return None
    return TransformersConfiguration(model, example_inputs)


def shapes_of(model: nn.Module) -> Shapes:
    """Name -> shape of each tensor in a model's state."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def build_shapes(
    kind: type[nn.Module], config: Configured, fields: Mapping[str, object]
) -> Shapes | None:
    """Shapes of a model built with these fields on the meta device; None if that fails."""
    try:
        with _quietly(), torch.device("meta"):
            return shapes_of(kind(change_fields(config, fields)))
    except Exception:  # noqa: BLE001 - impossible widths raise exceptions of many classes
        return None


def change_fields(config: Configured, fields: Mapping[str, object]) -> object:
    """Copy a configuration with other values in these fields."""
    data = copy.deepcopy(config.to_dict())
    for path, value in fields.items():
        _write_(data, path.split("."), value)
    return type(config).from_dict(data)


def set_fields_(config: object, fields: Mapping[str, object]) -> None:
    """Set fields of a configuration, and of configurations inside it, in place."""
    for path, value in fields.items():
        *outer, name = path.split(".")
        owner = config
        if name.isdecimal():
            name, place, outer = outer[-1], int(name), outer[:-1]
            for part in outer:
                owner = getattr(owner, part)
            kept = list(getattr(owner, name))
            kept[place] = value
            setattr(owner, name, type(getattr(owner, name))(kept))
            continue
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, name, value)


def rebuild(model: nn.Module, config: object) -> nn.Module:
    """Build a model from this configuration and a model's weights, as ``from_pretrained`` does."""
    with _quietly():
        loader = type(model)
        made = loader.from_pretrained(  # type: ignore[attr-defined]
            None, config=config, state_dict=dict(model.state_dict()), dtype=_dtype_of(model)
        )
    first = next(model.parameters(), None)
    return cast(nn.Module, made.to("cpu" if first is None else first.device).eval())


def answers_alike(small: nn.Module, config: object, example_inputs: object) -> bool:
    """Whether the model that ``from_pretrained`` rebuilds from a configuration gives equal outputs.

    Compared with the model's own weights, and with larger random ones: where attention is hardly
    trained, a wrong scale of its scores (the root of another head width) does not show in the
    outputs.
    """
    if not _answer_alike(small, config, example_inputs, _TIMES_EPSILON):
        return False
    clear = copy.deepcopy(small)
    _draw_weights_(clear)
    return _answer_alike(clear, config, example_inputs, _TIMES_EPSILON_DRAWN)


def _answer_alike(
    small: nn.Module, config: object, example_inputs: object, times_epsilon: float
) -> bool:
    """Whether both models give equal outputs on the example inputs, up to rounding."""
    mode = small.training
    arguments, keywords = parse_example_inputs(example_inputs, small)
    try:
        models = (small.eval(), rebuild(small, config))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answers = [
                dict(named_outputs(one(*copy.deepcopy(arguments), **copy.deepcopy(keywords))))
                for one in models
            ]
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError):
        return False  # a custom loader, or a class that a configuration alone cannot build
    finally:
        small.train(mode)
    here, there = answers
    alike = (_is_close(here[n], there[n], times_epsilon) for n in here if n in there)
    return here.keys() == there.keys() and all(alike)


@torch.no_grad()
def _draw_weights_(model: nn.Module) -> None:
    """Draw random matrices that preserve the scale of their inputs; perturb the rest a little."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        if parameter.ndim > 1:
            parameter.copy_(drawn * max(1, parameter[0].numel()) ** -0.5)
        else:
            parameter.add_(0.1 * drawn)


def head_width(config: Configured) -> dict[str, int]:
    """``head_dim``, derived from the heads where it is not stated; not every model reads it."""
    stated = getattr(config, "head_dim", None)
    width, heads = (getattr(config, name, 0) for name in ("hidden_size", "num_attention_heads"))
    if not stated and isinstance(width, int) and isinstance(heads, int) and heads:
        stated = width // heads
    return {"head_dim": int(stated)} if stated else {}


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _is_close(one: object, other: object, times_epsilon: float) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return True
    if one.shape != other.shape or not one.is_floating_point():
        return one.shape == other.shape
    if not one.numel():
        return True
    scale = max(float(one.abs().max()), 1e-30)
    tolerance = times_epsilon * torch.finfo(one.dtype).eps * scale
    return float((one - other).abs().max()) <= tolerance


def _numbers_in(config: object, prefix: str = "") -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for name, value in cast(Configured, config).to_dict().items():
        inner = getattr(config, name, None)
        if name.endswith("_id"):
            continue
        if isinstance(value, dict) and hasattr(inner, "to_dict"):
            found.update(_numbers_in(inner, f"{prefix}{name}."))
        elif isinstance(value, (list, tuple)) and all(map(_is_width, value)):
            found.update({f"{prefix}{name}.{place}": one for place, one in enumerate(value)})
        elif _is_width(value):
            found[f"{prefix}{name}"] = cast(int, value)
    return found


def _is_width(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 1 if isinstance(value, int) else value >= _LEAST_RATIO


def _write_(data: object, path: list[str], value: object) -> None:
    for part in path[:-2]:
        data = cast("dict[str, object]", data)[part]
    *outer, name = path[-2:]
    if outer and name.isdecimal():
        fields = cast("dict[str, list[object]]", data)
        fields[outer[0]] = [*fields[outer[0]]]
        fields[outer[0]][int(name)] = value
        return
    for part in outer:
        data = cast("dict[str, object]", data)[part]
    cast("dict[str, object]", data)[name] = value


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the loader's progress bars and warnings."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(_CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
