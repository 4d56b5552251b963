"""The memory that a pass holds at once: weights, and activations while something needs them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.pytorch.model.copies import copy_model
from secateurs.pytorch.model.example_inputs import check_model, parse_example_inputs
from secateurs.pytorch.tracing.op_call import Arguments, Keywords, iterate_tensors


def peak_memory(model: nn.Module, example_inputs: object) -> int:
    """Bytes of the weights, the inputs and the most activations that are alive at once.

    Counted from the tensors themselves, so it is the same on every machine. What a kernel takes for
    itself while it runs is not in it.

    Args:
        model: unchanged; run in eval mode.
        example_inputs: what its forward takes.
    """
    ready = copy_model(check_model(model)).eval()
    arguments, keywords = parse_example_inputs(example_inputs, ready)
    state = [*ready.parameters(), *ready.buffers()]
    alive = _Alive()
    with alive, torch.no_grad():
        alive.count(state)
        alive.count(list(iterate_tensors((arguments, keywords))))
        ready(*arguments, **keywords)
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, as operations make them."""

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.peak: int = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def count(self, tensors: list[torch.Tensor]) -> None:
        """Take notice of what these hold."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            self._known.add(storage)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _forget(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        """Run the operation, and take notice of what it made."""
        del types
        made = func(*args, **(kwargs or {}))
        self.count(list(iterate_tensors(made)))
        return made
