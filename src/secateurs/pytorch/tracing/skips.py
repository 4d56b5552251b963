"""A forward pass watched for what goes on unchanged: which values are sums of which.

No class or name of a layer is looked at. An operation hands a value on (a dropout, a move of axes),
changes it as a whole (an activation, a normalisation), adds to it, or makes something new.
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


@dataclass(eq=False, slots=True)
class SkipValue:
    """A tensor of the pass, as it was at one moment.

    Attributes:
        number: of the operation that made it; -1 for what the model was given.
        packet: that operation.
        parents: what it was made from.
        skips: those of them that go on in it: both operands of a sum, the one of a move.
        changes: for a sum, one minus the cosine between each operand and the sum.
    """

    number: int
    packet: OpOverloadPacket | None = None
    parents: tuple[SkipValue, ...] = ()
    skips: tuple[SkipValue, ...] = ()
    changes: tuple[float, ...] = ()

    @property
    def is_sum(self) -> bool:
        """Whether two values are added."""
        return self.packet in SUMS and len(self.skips) > 1

    @property
    def is_never_negative(self) -> bool:
        """Whether a ReLU made it, up to what keeps signs."""
        if self.packet in (aten.relu, aten.relu_):
            return True
        return self.packet in KEEP_SIGN and all(p.is_never_negative for p in self.parents[:1])


@dataclass(eq=False, slots=True)
class ModuleCall:
    """A module's run: what it was given and what it gave.

    Attributes:
        path: dotted path of the module.
        given: (place, keyword or '', value, shape) of each tensor among its arguments.
        samples: some numbers of each of those.
        output: what it gave, or the first of the tuple that it gave; None where that is no tensor.
        shape: of that.
        gives: how many things the tuple holds, all others of which are None; 0 is no tuple, -1 one
            with more in it.
        changes: for each given tensor of that shape, one minus the cosine between the two.
        steps: how many operations it did.
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
    """Runs a model and notes what goes on in what, and what each module was given and gave.

    Attributes:
        calls: of every module, by its path, in the order in which they were entered.
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
        """The model's forward pass; the inputs are values that nothing made."""
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
    def _following(self, model: nn.Module) -> Iterator[None]:
        paths = {id(module): path for path, module in model.named_modules()}
        handles = []
        with super()._following(model):
            for module in model.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    path = paths[id(module)]
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
    """What a tensor is in the pass; None where it depends on nothing that the model was given."""
    known: SkipValue | None = getattr(tensor, "_secateurs_value", None)
    return known


def _clone_input(value: Any) -> Any:
    """The same inputs as tensors of their own, each a value."""
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
    """The operands that go on in a result."""
    values = [value_of(tensor) for tensor in given]
    if packet in SUMS:
        # In place, the first operand is the result by now, and has its old value until it is noted.
        known = tuple(v for v in values if v is not None)
        same = all(tensor.shape == made.shape for tensor in given)
        return known if same and len(known) == len(given) else ()
    goes_on = packet in MOVES or packet in NORMS or packet in ACTIVATIONS
    scaled = packet in (aten.mul, aten.mul_, aten.div, aten.div_) and len(given) == 1
    first = values[0] if values else None
    return (first,) if (goes_on or scaled) and first is not None else ()


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Some of a tensor's numbers, spread over all of it."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].float().clone()


def _measure_change(one: torch.Tensor, other: torch.Tensor) -> float:
    """One minus the cosine between two values, by samples; 1 where they are of other sizes."""
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
    """(the tensor that a module gives, how many things in a tuple it gives)."""
    if isinstance(output, torch.Tensor):
        return output, 0
    if type(output) is tuple and output and isinstance(output[0], torch.Tensor):
        return output[0], len(output) if all(item is None for item in output[1:]) else -1
    return None, -1
