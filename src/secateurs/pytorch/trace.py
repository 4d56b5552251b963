"""From a PyTorch model to a ``Network``: one forward pass, watched below Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.network import Group, Network
from secateurs.errors import CutError, ModelError
from secateurs.pytorch import rules
from secateurs.pytorch.attributes import sizes_of
from secateurs.pytorch.inputs import as_call, checked_model, described
from secateurs.pytorch.leaves import Leaf, leaves_of
from secateurs.pytorch.rehearsal import Blocked, rehearse
from secateurs.pytorch.surgery import cut_copy
from secateurs.pytorch.tracer import NETWORK_OUTPUT, Operation, Tracer, tensors_in


@dataclass(frozen=True, eq=False)
class TracedModel:
    """What a ``Network`` knows of the PyTorch model it came from.

    Attributes:
        model: the user's own model, unchanged.
        example_inputs: what it was traced with.
        operations: of its forward pass, in order, for the rehearsal and the masked twin.
    """

    model: nn.Module
    example_inputs: Any
    operations: Sequence[Operation]
    tensors: dict[str, torch.Tensor]
    framework: str = "pytorch"

    def array(self, name: str) -> NDArray[Any]:
        """A tensor's present values; half precision comes as single."""
        tensor = self.tensors[name].detach()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        values: NDArray[Any] = tensor.cpu().numpy()
        return values


def traced(network: Network) -> TracedModel:
    """What the network knows of the PyTorch model it came from."""
    if not isinstance(network.source, TracedModel):
        raise CutError(
            f"expected a network traced from PyTorch; received one from {network.source.framework}"
        )
    return network.source


def trace(model: nn.Module, example_inputs: Any) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: in train or eval mode, on any device; it comes back exactly as it was.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as its forward takes.
            A batch of one makes MACs come out per example.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: its forward raises on these inputs, or it is not a module.
    """
    model = checked_model(model)
    leaves = leaves_of(model)
    tracer = _traced(model, leaves, example_inputs)
    network = _network(model, leaves, tracer, example_inputs)
    if tracer.reads_sizes:
        network = _rehearsed(
            network, tracer, lambda: _network(model, leaves, tracer, example_inputs)
        )
    return network


def _network(
    model: nn.Module, leaves: Sequence[Leaf], tracer: Tracer, example_inputs: Any
) -> Network:
    return Network(
        [leaf.described() for leaf in leaves],
        tracer.contractions,
        sizes_of(model, leaves, tracer.counts),
        tracer.mixings,
        tracer.equations.solve(),
        TracedModel(
            model, example_inputs, tracer.operations, {leaf.name: leaf.tensor for leaf in leaves}
        ),
        name=type(model).__name__,
    )


def _rehearsed(network: Network, tracer: Tracer, again: Callable[[], Network]) -> Network:
    """Freeze what the model's own code keeps from being cut, until a trial cut runs as foretold.

    Two cuts are tried: one channel from every group, and a different share from each, so that sizes
    that should be independent do not agree by chance.
    """
    for shares in (_one_each, _different_shares):
        while True:
            blocked, foreign = _try_out(network, tracer, shares(network.groups))
            stays = network.solution.kept(
                network.alive(network.removed_by(network.cut(shares(network.groups))))
            )
            blocked = [block for block in blocked if not stays[block.units].all()]
            if not blocked and foreign:
                blocked = _culprits(network, tracer, shares(network.groups), foreign[0])
            if not blocked:
                break
            for block in blocked:
                tracer.equations.freeze(block.units, block.reason)
            network = again()
    return network


def _one_each(groups: Sequence[Group]) -> dict[str, list[int]]:
    return {group.name: [0] for group in groups if len(group) > 1}


def _different_shares(groups: Sequence[Group]) -> dict[str, list[int]]:
    random = np.random.default_rng(0)
    return {
        group.name: random.permutation(len(group))[: random.integers(1, len(group))].tolist()
        for group in groups
        if len(group) > 1
    }


def _try_out(
    network: Network, tracer: Tracer, channels: Mapping[str, Sequence[int]]
) -> tuple[list[Blocked], list[str]]:
    cut = network.cut(channels)
    if not cut:
        return [], []
    source = traced(network)
    arguments, keywords = as_call(source.example_inputs, source.model)
    return rehearse(
        cut_copy(source.model, cut, without_data=True),
        tracer.operations,
        network.solution,
        network.alive(network.removed_by(cut)),
        _mapped(arguments, _without_data),
        _mapped(keywords, _without_data),
    )


def _culprits(
    network: Network, tracer: Tracer, channels: Mapping[str, Sequence[int]], reason: str
) -> list[Blocked]:
    """The groups of this cut that block it, found by halving."""
    if _try_out(network, tracer, channels) == ([], []):
        return []
    names = list(channels)
    halves = (names[: len(names) // 2], names[len(names) // 2 :]) if len(names) > 1 else ()
    found = [
        block
        for half in halves
        for block in _culprits(network, tracer, {name: channels[name] for name in half}, reason)
    ]
    if found:
        return found
    # One group alone, or groups that only block together: none of them may be cut.
    return [
        Blocked(
            np.flatnonzero(
                np.isin(network.solution.atoms, network.group(name).channels).any(axis=1)
            ),
            reason,
        )
        for name in names
    ]


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="meta")


def _traced(model: nn.Module, leaves: Sequence[Leaf], example_inputs: Any) -> Tracer:
    arguments, keywords = as_call(example_inputs, model)
    tracer = Tracer(leaves, rules)
    follow = tracer.follow_input
    try:
        outputs = tracer.run(
            model,
            [_mapped(value, follow) for value in arguments],
            {key: _mapped(value, follow) for key, value in keywords.items()},
        )
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__}: its forward raised {type(error).__name__}: {error}. "
            f"Received example_inputs of {described(example_inputs)}; "
            "expected inputs the model accepts."
        ) from error
    for tensor in tensors_in(outputs):
        tracer.freeze(tensor, NETWORK_OUTPUT)
    return tracer


def _mapped(value: Any, function: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(item, function) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return value
