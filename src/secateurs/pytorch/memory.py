"""Memory of a forward pass: its peak, and the activations that a backward pass needs."""

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
    """Peak bytes of a forward pass: weights, inputs and the activations alive at the same time.

    Counted from the storages of the tensors, so it is the same on every machine. Workspace that a
    kernel allocates while it runs is not included.

    Args:
        model: model; unchanged, run in eval mode.
        example_inputs: inputs of its forward pass.
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


def activation_memory(model: nn.Module, example_inputs: object) -> int:
    """Bytes of the activations that are kept for a backward pass, of the outputs among them.

    Counted like ``peak_memory``; weights and inputs are left out.

    Args:
        model: model; unchanged, run in eval mode.
        example_inputs: inputs of its forward pass.
    """
    ready = copy_model(check_model(model)).eval()
    for parameter in ready.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    arguments, keywords = parse_example_inputs(example_inputs, ready)
    alive = _Alive()
    with alive, torch.enable_grad():
        alive.count([*ready.parameters(), *ready.buffers()])
        alive.count(list(iterate_tensors((arguments, keywords))))
        before = alive.now
        outputs = ready(*arguments, **keywords)
        kept = alive.now - before
        del outputs
    return kept


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages alive, as operations allocate and release them."""

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.peak: int = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def count(self, tensors: list[torch.Tensor]) -> None:
        """Count the storages of these tensors, each once, until they are freed."""
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
        """Run the operation, and count its results."""
        del types
        made = func(*args, **(kwargs or {}))
        self.count(list(iterate_tensors(made)))
        return made
