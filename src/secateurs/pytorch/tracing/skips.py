"""Watch a forward pass for skip connections: which values are sums of which.

No class or name of a layer is used. An operation passes a value on (a dropout, a reshape), changes
it as a whole (an activation, a normalisation), adds to it, or makes a new value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten
from secateurs.pytorch.tracing.op_call import iterate_tensors

SUMS = {aten.add, aten.add_}
ACTIVATIONS: dict[OpOverloadPacket, str] = {
    aten.relu: "relu",
    aten.relu_: "relu",
    aten.silu: "silu",
    aten.silu_: "silu",
    aten.gelu: "gelu",
    aten.tanh: "tanh",
    aten.elu: "elu",
    aten.elu_: "elu",
    aten.hardswish: "hardswish",
    aten.hardswish_: "hardswish",
}
NORMS = {aten.batch_norm, aten.layer_norm, aten.rms_norm, aten.group_norm}
MOVES = {
    aten.dropout,
    aten.dropout_,
    aten.feature_dropout,
    aten.view,
    aten.reshape,
    aten._unsafe_view,
    aten.permute,
    aten.transpose,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
    aten.clone,
}
KEEP_SIGN = {*MOVES, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool2d}
SAMPLES = 4096
"""Approximate number of elements by which two values are compared."""


@dataclass(eq=False, slots=True)
class SkipValue:
    """A tensor of the pass at one moment.

    Attributes:
        number: index of the operation that made it; -1 for inputs of the model.
        packet: that operation.
        parents: values it was made from.
        skips: those of the parents that continue in it: both operands of a sum, the one of a
            reshape.
        changes: for a sum, one minus the cosine between each operand and the sum.
    """

    number: int
    packet: OpOverloadPacket | None = None
    parents: tuple[SkipValue, ...] = ()
    skips: tuple[SkipValue, ...] = ()
    changes: tuple[float, ...] = ()

    @property
    def is_sum(self) -> bool:
        """Whether it is the sum of two values."""
        return self.packet in SUMS and len(self.skips) > 1

    @property
    def is_never_negative(self) -> bool:
        """Whether a ReLU made it, possibly followed by operations that preserve signs."""
        if self.packet in (aten.relu, aten.relu_):
            return True
        return self.packet in KEEP_SIGN and all(p.is_never_negative for p in self.parents[:1])


@dataclass(eq=False, slots=True)
class ModuleCall:
    """A call of a module: its inputs and its output.

    Attributes:
        path: dotted path of the module.
        given: (position, keyword or '', value, shape) of each tensor among its arguments.
        samples: a sample of the elements of each of those.
        output: its output, or the first item of a tuple; None where that is no tensor.
        shape: shape of the output.
        gives: length of the tuple, where all items but the first are None; 0 if the output is no
            tuple, -1 if other items are not None.
        changes: one minus the cosine between each given tensor of that shape and the output.
        steps: number of operations it ran.
    """

    path: str
    given: list[tuple[int, str, SkipValue, torch.Size]] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    output: SkipValue | None = None
    shape: torch.Size = field(default_factory=torch.Size)
    gives: int = 0
    changes: list[float] = field(default_factory=list)
    steps: int = 0


class SkipWatcher(OpInterpreter):
    """Runs a model and records which values continue in which, and each module's inputs and output.

    Attributes:
        calls: path of a module -> its calls; in the order in which modules were first entered.
    """

    def __init__(self) -> None:
        super().__init__(rules.is_whole)
        self.calls: dict[str, list[ModuleCall]] = {}
        self._open: list[ModuleCall] = []

    def run(
        self,
        model: nn.Module,
        arguments: Sequence[Any],
        keywords: dict[str, Any],
        training: bool = False,
    ) -> Any:
        """Run the model's forward pass; its inputs are values without an operation."""
        arguments = [_clone_input(value) for value in arguments]
        return super().run(
            model, arguments, {k: _clone_input(v) for k, v in keywords.items()}, training
        )

    def step(self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        given = list(iterate_tensors([*arguments, *keywords.values()]))
        values = [value for tensor in given if (value := value_of(tensor)) is not None]
        packet = function.overloadpacket
        before = [_sample(tensor) for tensor in given] if packet in SUMS else []
        output = function(*arguments, **keywords)
        if not values:
            return output
        for tensor in iterate_tensors(output):
            skips = _find_skips(packet, given, tensor)
            changes = tuple(_measure_change(one, _sample(tensor)) for one in before)
            made = SkipValue(self.index, packet, tuple(values), skips, changes if skips else ())
            tensor._secateurs_value = made  # type: ignore[attr-defined]
        return output

    def pass_through(
        self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        output = function(*arguments, **keywords)
        known = next((value_of(t) for t in iterate_tensors(list(arguments))), None)
        for tensor in iterate_tensors(output):
            if known is not None:
                tensor._secateurs_value = known  # type: ignore[attr-defined]
        return output

    @contextmanager
    def _following(self) -> Iterator[None]:
        handles = []
        with super()._following():
            for path, module in self._modules:
                if not isinstance(module, torch.jit.ScriptModule):
                    handles += self._watching(module, path)
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _watching(self, module: nn.Module, path: str) -> list[Any]:
        def enter(_: nn.Module, given: Sequence[Any], named: Mapping[str, Any]) -> None:
            call = ModuleCall(path, steps=-self.index)
            with self.aside():
                for place, key, tensor in _iterate_given(given, named):
                    value = value_of(tensor)
                    if value is not None:
                        call.given.append((place, key, value, tensor.shape))
                        call.samples.append(_sample(tensor))
            self.calls.setdefault(path, []).append(call)
            self._open.append(call)

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            call = self._open.pop()
            call.steps += self.index
            first, call.gives = _take_first(output)
            call.output = None if first is None else value_of(first)
            if first is not None:
                call.shape = first.shape
                with self.aside():
                    sample = _sample(first)
                    call.changes = [_measure_change(before, sample) for before in call.samples]
            call.samples = []

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        ]


def value_of(tensor: torch.Tensor) -> SkipValue | None:
    """The record of a tensor; None where it does not depend on the model's inputs."""
    known: SkipValue | None = getattr(tensor, "_secateurs_value", None)
    return known


def _clone_input(value: Any) -> Any:
    """Copies of the inputs, each with a record."""
    if isinstance(value, torch.Tensor):
        copied = value.clone()
        copied._secateurs_value = SkipValue(-1)  # type: ignore[attr-defined]
        return copied
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_clone_input(item) for item in value)
    return value


def _find_skips(
    packet: OpOverloadPacket, given: Sequence[torch.Tensor], made: torch.Tensor
) -> tuple[SkipValue, ...]:
    """The operands that continue in a result."""
    values = [value_of(tensor) for tensor in given]
    if packet in SUMS:
        # In place, the first operand is the result already, and keeps its old record until the
        # caller sets the new one.
        known = tuple(v for v in values if v is not None)
        same = all(tensor.shape == made.shape for tensor in given)
        return known if same and len(known) == len(given) else ()
    continues = packet in MOVES or packet in NORMS or packet in ACTIVATIONS
    scaled = packet in (aten.mul, aten.mul_, aten.div, aten.div_) and len(given) == 1
    first = values[0] if values else None
    return (first,) if (continues or scaled) and first is not None else ()


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Evenly spaced elements of a tensor, about SAMPLES of them."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].float().clone()


def _measure_change(one: torch.Tensor, other: torch.Tensor) -> float:
    """One minus the cosine between two samples; 1 where their sizes differ."""
    if one.shape != other.shape or not one.numel():
        return 1.0
    a, b = one.double(), other.double()
    length = float(a.norm() * b.norm())
    return 1 - float(a @ b) / length if length else 0.0


def _iterate_given(
    given: Sequence[Any], named: Mapping[str, Any]
) -> Iterator[tuple[int, str, torch.Tensor]]:
    for place, value in enumerate(given):
        if isinstance(value, torch.Tensor):
            yield place, "", value
    for key, value in named.items():
        if isinstance(value, torch.Tensor):
            yield -1, key, value


def _take_first(output: Any) -> tuple[torch.Tensor | None, int]:
    """(the tensor that a module returns, the length of the tuple that holds it)."""
    if isinstance(output, torch.Tensor):
        return output, 0
    if type(output) is tuple and output and isinstance(output[0], torch.Tensor):
        return output[0], len(output) if all(item is None for item in output[1:]) else -1
    return None, -1
