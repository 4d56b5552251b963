"""From a PyTorch model to a ``Network``: one forward pass, watched below Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.latest import remember
from secateurs.channels.network import Network, Scaling, Size
from secateurs.errors import CutError, ModelError
from secateurs.pytorch.model.caches import forget_caches_
from secateurs.pytorch.model.example_inputs import check_model, format_inputs, parse_example_inputs
from secateurs.pytorch.model.tensors import ModelTensor, list_tensors
from secateurs.pytorch.sizes.hardcoded import BakedSizes
from secateurs.pytorch.sizes.layer_sizes import CONVOLUTION, constrain_attention, layer_sizes_of
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors, without_values
from secateurs.pytorch.tracing.op_record import ForwardPass, OpRecord
from secateurs.pytorch.tracing.tracer import NETWORK_OUTPUT, Tracer


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
    operations: Sequence[OpRecord]
    tensors: dict[str, torch.Tensor]
    framework: str = "pytorch"

    def array(self, name: str) -> NDArray[Any]:
        """A tensor's present values; half precision comes as single."""
        tensor = self.tensors[name].detach()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        values: NDArray[Any] = tensor.cpu().numpy()
        return values


def source_of(network: Network) -> TracedModel:
    """What the network knows of the PyTorch model it came from."""
    if not isinstance(network.source, TracedModel):
        raise CutError(
            f"expected a network traced from PyTorch; received one from {network.source.framework}"
        )
    return network.source


def trace(model: nn.Module, example_inputs: Any) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: in train or eval mode, on any device; it comes back exactly as it was, but for what
            it keeps of a pass and makes again by itself.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as its forward takes.
            A batch of one makes MACs come out per example.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: its forward raises on these inputs, or it is not a module.
    """
    model = check_model(model)
    network = _traced_somehow(model, example_inputs)
    suspects = _perhaps_caches(model, network)
    if suspects and forget_caches_(model, *parse_example_inputs(example_inputs, model), suspects):
        network = _traced_somehow(model, example_inputs)
    return remember(model, network)


def _perhaps_caches(model: nn.Module, network: Network) -> list[torch.Tensor]:
    """Tensors beside the model's state that channels lie along, or that the trace never read.

    What is kept by device, for one, is not found again by a pass on tensors without data.
    """
    cut = {member.tensor for group in network.groups for member in group.members}
    state = model.state_dict().keys()
    return [
        tensor
        for name, tensor in source_of(network).tensors.items()
        if name not in state
        and tensor.is_floating_point()
        and tensor.numel() > 1
        and (name in cut or not network.tensors[name].axes)
    ]


def _traced_somehow(model: nn.Module, example_inputs: Any) -> Network:
    """On tensors without data, or on real ones where the forward pass reads values."""
    try:
        return _traced(model, example_inputs)
    except ModelError as error:
        if any(tensor.is_meta for tensor in model.parameters()):
            raise
        reason = error.__cause__
    network = _traced(model, example_inputs, concrete=True)
    said = (str(reason).splitlines() or [""])[0][:120]
    network.notes = (
        "Traced on real tensors, since its forward reads values "
        f"({type(reason).__name__}: {said}); what it decides by them was decided as it is for "
        "these example inputs.",
    )
    return network


def _traced(model: nn.Module, example_inputs: Any, concrete: bool = False) -> Network:
    """The network, found on tensors without data or, ``concrete``, on real ones.

    Real ones are for models whose forward pass reads values: where a value decides what is done or
    how many there are, the rehearsals go by what was read here.
    """
    leaves = list_tensors(model)
    tracer = Tracer(leaves, rules, concrete)
    tracer.convolutions = {
        path for path, module in model.named_modules() if isinstance(module, CONVOLUTION)
    }
    arguments, keywords = parse_example_inputs(example_inputs, model)
    passes = [_watched(tracer, model, arguments, keywords, training=False)]
    unused = (leaf for leaf in leaves if leaf.is_parameter and not leaf.axes)
    if not concrete and any(leaf.can_carry_channels for leaf in unused):
        passes += _in_training(tracer, model, arguments, keywords)
    constrain_attention(model, leaves, tracer)

    def build(sizes: Sequence[Size] = (), scalings: Sequence[Scaling] = ()) -> Network:
        return _network(model, leaves, tracer, passes, example_inputs, sizes, scalings)

    network = BakedSizes(model, tracer, passes, build).settle() if tracer.reads_sizes else build()
    for forward in passes:
        for operation in forward.operations:
            operation.operands = []
    return network


def _network(
    model: nn.Module,
    leaves: Sequence[ModelTensor],
    tracer: Tracer,
    passes: Sequence[ForwardPass],
    example_inputs: Any,
    sizes: Sequence[Size],
    scalings: Sequence[Scaling],
) -> Network:
    known = layer_sizes_of(model, leaves, tracer.counts)
    found = {(size.owner, size.attribute, size.position) for size in known}
    new = [size for size in sizes if (size.owner, size.attribute, size.position) not in found]
    return Network(
        [leaf.described() for leaf in leaves],
        tracer.contractions,
        [*known, *new],
        tracer.mixings,
        tracer.equations.solve(),
        TracedModel(
            model,
            example_inputs,
            passes[0].operations,
            {leaf.name: leaf.tensor for leaf in leaves},
        ),
        name=type(model).__name__,
        scalings=scalings,
    )


def _watched(
    tracer: Tracer,
    model: nn.Module,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    training: bool,
) -> ForwardPass:
    """One forward pass; what it gives may not change."""
    operations = tracer.start_pass()
    try:
        outputs = tracer.run(
            model,
            [map_tensors(value, tracer.follow_input) for value in arguments],
            {key: map_tensors(value, tracer.follow_input) for key, value in keywords.items()},
            training,
        )
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"{type(model).__name__}: its forward raised {type(error).__name__}: {said}. "
            f"Received example_inputs of {format_inputs(_as_given(arguments, keywords))}; "
            "expected inputs the model accepts."
        ) from error
    for tensor in iterate_tensors(outputs):
        tracer.freeze(tensor, NETWORK_OUTPUT)
    return ForwardPass(
        [map_tensors(value, without_values) for value in arguments],
        {key: map_tensors(value, without_values) for key, value in keywords.items()},
        training,
        operations,
    )


def _as_given(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    if keywords:
        return {**{str(place): value for place, value in enumerate(arguments)}, **keywords}
    return arguments[0] if len(arguments) == 1 else arguments


def _in_training(
    tracer: Tracer, model: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> list[ForwardPass]:
    """A pass in train mode, for layers that only training uses (auxiliary classifiers).

    It costs nothing at inference, so its contractions do not count. Batch normalisation wants more
    than one value for each channel, so the batch is doubled. Where it cannot be run, those layers
    stay as they are.
    """
    contractions, mixings = list(tracer.contractions), list(tracer.mixings)

    def doubled(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor

    try:
        passes = [
            _watched(
                tracer,
                model,
                [map_tensors(value, doubled) for value in arguments],
                {key: map_tensors(value, doubled) for key, value in keywords.items()},
                training=True,
            )
        ]
    except ModelError:
        passes = []
    tracer.contractions, tracer.mixings = contractions, mixings
    return passes
