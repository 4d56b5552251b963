"""From a PyTorch model to a ``Network``: one forward pass, watched below Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.channels.blocks import Block
from secateurs.channels.cut import Cache
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.latest import remember
from secateurs.channels.network import Network, Scaling, Size
from secateurs.errors import CutError, ModelError
from secateurs.pytorch.configurations import TransformersConfiguration, configuration_of
from secateurs.pytorch.model.copies import list_modules, share_tensors
from secateurs.pytorch.model.example_inputs import check_model, format_inputs, parse_example_inputs
from secateurs.pytorch.model.outputs import (
    OutputName,
    check_names,
    is_used,
    named_outputs,
    select_used,
)
from secateurs.pytorch.model.tensors import ModelTensor, check_values, list_tensors
from secateurs.pytorch.sizes.bindings import Tie
from secateurs.pytorch.sizes.dry_run import UNKNOWN_LINE, line_of
from secateurs.pytorch.sizes.hardcoded import HardcodedSizes
from secateurs.pytorch.sizes.layer_sizes import CONVOLUTION, constrain_attention, layer_sizes_of
from secateurs.pytorch.sizes.reads import Reads
from secateurs.pytorch.sizes.unread import follow_unread_sizes_, may_count
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.blocks import find_blocks
from secateurs.pytorch.tracing.caches import forget_caches_
from secateurs.pytorch.tracing.op_call import map_tensors, without_values
from secateurs.pytorch.tracing.op_record import ForwardPass, OpRecord
from secateurs.pytorch.tracing.siblings import (
    bind_siblings_,
    operations_of,
    scalings_of_siblings,
    sizes_of_siblings,
)
from secateurs.pytorch.tracing.tracer import NETWORK_OUTPUT, Tracer

OptionalOutputs = OutputName | Sequence[OutputName] | None

BY_VALUES = "Traced on real tensors"
"""How the note begins of a network whose forward decides by values."""


@dataclass(frozen=True, eq=False)
class TracedModel:
    """What a ``Network`` knows of the PyTorch model it came from.

    Attributes:
        model: the user's own model, unchanged.
        example_inputs: what it was traced with.
        operations: of its forward pass, in order, for the rehearsal and the masked twin.
        tensors: its tensors, by name.
        caches: what it keeps of a pass for the next one; none of it was there when it was traced.
        outputs: the names of those outputs that are used; None for all.
    """

    model: nn.Module
    example_inputs: object
    operations: Sequence[OpRecord]
    tensors: dict[str, torch.Tensor]
    caches: tuple[Cache, ...] = ()
    framework: str = "pytorch"
    outputs: tuple[str, ...] | None = None

    @property
    def device(self) -> str:
        """The kind of device that the model is on: 'cpu', 'cuda', ..."""
        return next((tensor.device.type for tensor in self.tensors.values()), "cpu")

    def select_used(self, outputs: object) -> object:
        """Those of a forward pass's outputs that are used, and so have to stay what they are."""
        return select_used(outputs, self.outputs)

    def check_values(self, caller: str) -> None:
        """Refuse a model on the meta device where values are needed.

        Raises:
            ModelError: with the name of a tensor that has none.
        """
        otherwise = 'score by "random"'
        leaves = list_tensors(self.model)
        check_values(leaves, self.example_inputs, caller=caller, otherwise=otherwise)

    def to_run(self) -> nn.Module:
        """A copy of the model around its very own tensors, to be run as it was traced."""
        return share_tensors(self.model, self.caches)

    def find_blocks(self, network: Network) -> Sequence[Block]:
        """The residual blocks that can go whole, in the order in which they run.

        Raises:
            ModelError: the model is on the meta device: its pass is to be watched.
        """
        otherwise = "cut channels only"
        leaves = list_tensors(self.model)
        check_values(leaves, self.example_inputs, caller="finding blocks", otherwise=otherwise)
        return find_blocks(network, self.to_run(), self.example_inputs)

    def configuration(self) -> TransformersConfiguration | None:
        """What a Transformers model's configuration can say of its widths."""
        return configuration_of(self.model, self.example_inputs)

    def array(self, name: str) -> NDArray[np.generic]:
        """A tensor's present values; half precision comes as single.

        Raises:
            ModelError: it is on the meta device, and has none.
        """
        tensor = self.tensors[name].detach()
        if tensor.is_meta:
            self.check_values("a score")
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        values: NDArray[np.generic] = tensor.cpu().numpy()
        return values


def source_of(network: Network) -> TracedModel:
    """What the network knows of the PyTorch model it came from."""
    if not isinstance(network.source, TracedModel):
        raise CutError(
            f"expected a network traced from PyTorch; received one from {network.source.framework}"
        )
    return network.source


@pause_garbage_collection()
def trace(
    model: nn.Module,
    example_inputs: object,
    *,
    outputs: OutputName | Sequence[OutputName] | None = None,
) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: in train or eval mode, on any device; it is not touched, nor run: a copy of its
            modules is, around the same tensors.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as its forward takes.
            A batch of one makes MACs come out per example.
        outputs: names of the outputs that are used, such as ``"logits"`` or ``[0, "aux.boxes"]``;
            channels of the others may go. None: all are used.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: its forward raises on these inputs, or it is not a module.
        UnknownNameError: it gives no output of such a name.

    Examples:
        >>> import torch, secateurs as sec
        >>> sec.trace(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)),
        ...           torch.rand(1, 3)).groups[0].name
        '0'
    """
    model = check_model(model)
    twin = share_tensors(model)
    network = _trace_somehow(twin, example_inputs, outputs)
    suspects = _perhaps_caches(twin, network)
    if suspects:
        caches = forget_caches_(twin, *parse_example_inputs(example_inputs, twin), suspects)
        if caches:
            network = _trace_somehow(twin, example_inputs, outputs)
            network.caches = caches
    network.source = replace(source_of(network), model=model, caches=network.caches)
    return remember(model, network)


def _perhaps_caches(model: nn.Module, network: Network) -> list[torch.Tensor]:
    """Tensors beside the model's state that channels lie along, or that the trace never read.

    What is kept by device, for one, is not found again by a pass on tensors without data.
    """
    cut = {member.tensor for group in network.groups for member in group.members}
    state = {
        id(tensor)
        for _, module in list_modules(model)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }
    return [
        tensor
        for name, tensor in source_of(network).tensors.items()
        if id(tensor) not in state
        and tensor.is_floating_point()
        and tensor.numel() > 1
        and (name in cut or not network.tensors[name].axes)
    ]


def _trace_somehow(model: nn.Module, example_inputs: object, outputs: OptionalOutputs) -> Network:
    """On tensors without data, or on real ones where the forward pass cannot do without values."""
    try:
        return _trace_once(model, example_inputs, outputs)
    except ModelError as error:
        if isinstance(error.__cause__, KeyError | TypeError):  # its own numbers are watched
            with suppress(ModelError):
                return _trace_once(model, example_inputs, outputs, watch=False)
        if any(tensor.is_meta for tensor in model.parameters()):
            raise
        reason = error.__cause__
    network = _trace_once(model, example_inputs, outputs, concrete=True)
    network.notes = (
        *network.notes,
        f"{BY_VALUES}: without values {_what_stopped(reason)}. What its forward decides "
        "by values was decided as it is for these example inputs.",
    )
    return network


def _what_stopped(error: BaseException | None) -> str:
    """The line of the user's code that raised, and what it said."""
    message = (str(error).splitlines() or [""])[0][:120]
    line = "" if error is None else _line(error)
    return f"{type(error).__name__} is raised{line} ({message})"


def _trace_once(
    model: nn.Module,
    example_inputs: object,
    outputs: OptionalOutputs,
    *,
    concrete: bool = False,
    watch: bool = True,
) -> Network:
    """The network, found on tensors without data or, ``concrete``, on real ones.

    Real ones are for models whose forward pass reads values: where a value decides what is done or
    how many there are, the rehearsals go by what was read here. ``watch``: note which of its
    integers the pass reads; a model that writes one of them as it runs cannot be watched.
    """
    leaves = list_tensors(model)
    tracer = Tracer(leaves, rules, concrete)
    tracer.convolutions = {
        path for path, module in list_modules(model) if isinstance(module, CONVOLUTION)
    }
    arguments, keywords = parse_example_inputs(example_inputs, model)
    reads = Reads(model, may_count if watch else lambda name, value: False)
    with reads.watch():
        forward, given = _watch(tracer, model, arguments, keywords, training=False)
    wanted = check_names(outputs, [name for name, _ in given])
    _freeze_outputs(tracer, given, wanted)
    passes = [forward]
    unused = (leaf for leaf in leaves if leaf.is_parameter and not leaf.axes)
    if not concrete and any(leaf.can_carry_channels for leaf in unused):
        known = {name for name, _ in given}
        with reads.watch():
            passes += _in_training(tracer, model, arguments, keywords, wanted, known)
    constrain_attention(model, leaves, tracer)
    siblings = (
        bind_siblings_(model, leaves, forward.operations, tracer.equations) if concrete else {}
    )
    operations = [*forward.operations, *operations_of(siblings, forward.operations)]
    tensors = {leaf.name: leaf.tensor for leaf in leaves}

    def build(
        sizes: Sequence[Size] = (), scalings: Sequence[Scaling] = (), ties: Sequence[Tie] = ()
    ) -> Network:
        found = layer_sizes_of(model, leaves, tracer.counts)
        sizes = [*sizes, *sizes_of_siblings(model, siblings, sizes)]
        scalings = [*scalings, *scalings_of_siblings(siblings, scalings)]
        source = TracedModel(model, example_inputs, operations, tensors, outputs=wanted)
        return _network(leaves, tracer, source, _with_new(found, sizes), scalings, ties)

    network = (
        HardcodedSizes(model, tracer, passes, build).settle() if tracer.reads_sizes else build()
    )
    follow_unread_sizes_(model, network, passes, reads)
    for one in passes:
        for operation in one.operations:
            operation.operands = []
    return network


def _with_new(known: Sequence[Size], sizes: Sequence[Size]) -> list[Size]:
    """The sizes that layers are known to keep, and those found in the code beside them."""
    found = {(size.owner, size.attribute, size.position) for size in known}
    new = [size for size in sizes if (size.owner, size.attribute, size.position) not in found]
    return [*known, *new]


def _network(
    leaves: Sequence[ModelTensor],
    tracer: Tracer,
    source: TracedModel,
    sizes: Sequence[Size],
    scalings: Sequence[Scaling],
    ties: Sequence[Tie],
) -> Network:
    return Network(
        [leaf.describe() for leaf in leaves],
        tracer.contractions,
        sizes,
        tracer.mixings,
        tracer.equations.solve(ties),
        source,
        name=type(source.model).__name__,
        scalings=scalings,
        multiples=tracer.multiples,
    )


def _freeze_outputs(
    tracer: Tracer,
    given: Sequence[tuple[str, torch.Tensor]],
    wanted: Sequence[str] | None,
    known: Collection[str] | None = None,
) -> None:
    """What a model gives may not change, as far as it is used; the reason says which output.

    Args:
        tracer: of the trace.
        given: the outputs, by name.
        wanted: the names of those that are used; None for all.
        known: for a pass in train mode, what the model gives in eval mode too.
    """
    for name, tensor in given:
        if is_used(name, wanted):
            which = f" {name!r}" if name else ""
            when = "" if known is None or name in known else " in train mode"
            tracer.freeze(tensor, f"{NETWORK_OUTPUT}{which}{when}")
            tracer.freeze_positions(tensor, f"numbered by the network's output{which}{when}")


def _watch(
    tracer: Tracer,
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    training: bool,
) -> tuple[ForwardPass, list[tuple[str, torch.Tensor]]]:
    """One forward pass, and what it gave, by name."""
    operations = tracer.start_pass()
    try:
        outputs = tracer.run(
            model,
            [map_tensors(value, tracer.follow_input) for value in arguments],
            {key: map_tensors(value, tracer.follow_input) for key, value in keywords.items()},
            training,
        )
    except Exception as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"{type(model).__name__}: its forward raised {type(error).__name__}{_line(error)}: "
            f"{message}. "
            f"Received example_inputs of {format_inputs(_as_given(arguments, keywords))}; "
            "expected inputs the model accepts."
        ) from error
    forward = ForwardPass(
        [map_tensors(value, without_values) for value in arguments],
        {key: map_tensors(value, without_values) for key, value in keywords.items()},
        training,
        operations,
    )
    return forward, [(name, tracer.stand_in(tensor)) for name, tensor in named_outputs(outputs)]


def _line(error: BaseException) -> str:
    line = line_of(error)
    return "" if line == UNKNOWN_LINE else f" at {line}"


def _as_given(arguments: Sequence[object], keywords: Mapping[str, object]) -> object:
    if keywords:
        return {**{str(place): value for place, value in enumerate(arguments)}, **keywords}
    return arguments[0] if len(arguments) == 1 else arguments


def _in_training(
    tracer: Tracer,
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    wanted: Sequence[str] | None,
    known: Collection[str],
) -> list[ForwardPass]:
    """A pass in train mode, for layers that only training uses (auxiliary classifiers).

    It costs nothing at inference, so its contractions do not count. Batch normalisation wants more
    than one value for each channel, so the batch is doubled. Where it cannot be run, those layers
    stay as they are.
    """
    contractions, mixings = list(tracer.contractions), list(tracer.mixings)

    def double(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor

    try:
        forward, given = _watch(
            tracer,
            model,
            [map_tensors(value, double) for value in arguments],
            {key: map_tensors(value, double) for key, value in keywords.items()},
            training=True,
        )
        are_used = any(is_used(name, wanted) for name, _ in given)
        _freeze_outputs(tracer, given, wanted if are_used else None, known)
        passes = [forward]
    except ModelError:
        passes = []
    tracer.contractions, tracer.mixings = contractions, mixings
    return passes
