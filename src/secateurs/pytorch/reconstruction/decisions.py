"""Which layers of a pass are the last before values decide on shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from secateurs.pytorch.replay.tape import memory_of
from secateurs.pytorch.tracing.op_call import Arguments, Call, Keywords, is_decided_by_data
from secateurs.pytorch.tracing.op_call import iterate_tensors as tensors_in

LayerCall = tuple[str, int]
"""(path of a module with weights of its own, number of the call)."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a tensor was computed from.

    Attributes:
        layers: numbers of the calls of layers that it depends on, without layers in between.
        is_decided: whether values decided on its shape, or on operations that led to it.
    """

    layers: frozenset[int] = frozenset()
    is_decided: bool = False

    @classmethod
    def of_all(cls, origins: Iterable[_Origin]) -> _Origin:
        found = list(origins)
        layers = frozenset[int]().union(*(one.layers for one in found))
        return cls(layers, any(one.is_decided for one in found))


@dataclass(eq=False)
class FollowedPass:
    """A pass of a model, with the origin of each tensor.

    Attributes:
        model: model in eval mode.
        calls: the layers, in the order in which their calls end.
        last: numbers of the calls whose results reach a decision or an output past no other layer.
        is_static_before_decisions: whether values decide on outputs, and on no layer's input.
    """

    model: nn.Module
    calls: list[LayerCall] = field(default_factory=list)
    last: set[int] = field(default_factory=set)
    is_static_before_decisions: bool = True
    _origins: dict[int, tuple[StorageWeakRef, _Origin]] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)

    def run(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """Follow a pass to its end."""
        handles: list[RemovableHandle] = []
        for path, module in self.model.named_modules():
            if path and any(one is not None for one in module._parameters.values()):
                handles.append(
                    module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
                )
                handles.append(module.register_forward_hook(self._after(path)))
        try:
            with torch.no_grad(), _Watch(self):
                outputs = self.model(*arguments, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        origins = [self._origin(tensor) for tensor in tensors_in(_plain(outputs))]
        for origin in origins:
            self._reach(origin)
        if not any(origin.is_decided for origin in origins):
            self.is_static_before_decisions = False

    def do(self, call: Call) -> object:
        """Run an operation; its results have the origins of its operands."""
        given = [(tensor, self._origin(tensor)) for tensor in call.tensors()]
        origin = _Origin.of_all(one for _, one in given)
        if is_decided_by_data(call):
            origin = _Origin(origin.layers, is_decided=True)
        if origin.is_decided:
            for _, one in given:
                self._reach(one)
            origin = _Origin(is_decided=True)
        result = call.function(*call.arguments, **call.keywords)
        mine = [tensor for tensor, _ in given if tensor.layout is torch.strided]
        stores = set(map(memory_of, mine))
        for tensor in tensors_in(result):
            is_view = tensor.layout is torch.strided and memory_of(tensor) in stores
            shared = [self._origin(tensor)] if is_view else []
            self._put(tensor, _Origin.of_all([origin, *shared]))
        if call.function._schema.is_mutable and given:  # out= and index_put_ write into the first
            self._put(given[0][0], _Origin.of_all([origin, given[0][1]]))
        return result

    def _reach(self, origin: _Origin) -> None:
        if not origin.is_decided:
            self.last |= origin.layers

    def _origin(self, tensor: torch.Tensor) -> _Origin:
        if tensor.layout is not torch.strided:  # it has no memory to be known by
            self.is_static_before_decisions = False
            return _Origin()
        _, origin = self._origins.get(memory_of(tensor), (None, _Origin()))
        return origin

    def _put(self, tensor: torch.Tensor, origin: _Origin) -> None:
        if tensor.layout is not torch.strided:
            self.is_static_before_decisions = False
            return
        # The weak reference keeps the number of the memory from being given to another.
        reference = StorageWeakRef(tensor.untyped_storage())
        self._origins[memory_of(tensor)] = reference, origin

    def _before(
        self, module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
    ) -> None:
        del module
        given = tensors_in([list(arguments), keywords])
        if any(self._origin(tensor).is_decided for tensor in given):
            self.is_static_before_decisions = False

    def _after(self, path: str) -> Callable[[nn.Module, object, object], None]:
        def number(module: nn.Module, given: object, result: object) -> None:
            del module, given
            self.calls.append((path, self._times[path]))
            self._times[path] += 1
            results = list(tensors_in(_plain(result)))
            if any(self._origin(tensor).is_decided for tensor in results):
                return
            for tensor in results:
                self._put(tensor, _Origin(frozenset([len(self.calls) - 1])))

        return number


class _Watch(TorchDispatchMode):
    """Passes each operation through the follower."""

    def __init__(self, followed: FollowedPass) -> None:
        super().__init__()
        self._followed = followed

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        del types
        return self._followed.do(Call(func, args, kwargs or {}))


def _plain(output: object) -> object:
    """An output as a plain dictionary, where it is a mapping of another class."""
    return dict(cast("Mapping[str, object]", output)) if hasattr(output, "keys") else output
