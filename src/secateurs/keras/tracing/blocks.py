"""Find residual blocks in a forward pass: sums of a value and a function of that value.

In a functional graph, a block is such a sum and all calls that lead to its branch alone. A
composite layer is a block if it returns its input plus something. Of nested blocks the innermost
are chosen, because a stack of blocks returns its input plus something, too.

A block can be removed whole if each of its sums can be replaced by its skip, and nothing else needs
the removed calls: the rest of the model then computes what it would on a branch of zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from secateurs.channels.blocks import Block, BlockCut
from secateurs.channels.network import Network
from secateurs.keras.internals import (
    Layer,
    Operation,
    graph_of,
    is_model,
    name_in,
    nodes_of,
    operation_classes,
    without_gradients,
)
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.model.tensors import calls_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.tracing.interpreter import CallSite, OpInterpreter, call_layer, convert_arrays
from secateurs.keras.tracing.symbolic import Calls, Enter

MOST_KEPT = 3
"""Maximum number of consecutive layers on a skip (a projection, its normalisation, ...)."""

SUMS = (layers.Add, *operation_classes("Add"))
"""Operations that add two values."""

HAND_ON = (Enter, layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise)
"""Operations that are the identity in inference."""

ACTIVATIONS = {"Relu": "relu", "ReLU": "relu", "Silu": "silu", "Gelu": "gelu", "Tanh": "tanh"}
"""Class of an operation -> name of the activation; these may follow the sums of a layer."""

NORMS = {
    "LayerNormalization": "layer_norm",
    "BatchNormalization": "batch_norm",
    "GroupNormalization": "group_norm",
    "RMSNormalization": "rms_norm",
}
"""Class of a normalisation -> its name in reports. On a skip, they go with the block."""

SAMPLES = 4096
"""Approximate number of elements that a cosine is computed from."""


@dataclass(eq=False, slots=True)
class Flow:
    """A tensor of a forward pass, and the call that produced it.

    Attributes:
        number: index of the call that produced it; negative for the model's inputs.
        tensor: the tensor.
        spec: its shape and dtype.
    """

    number: int
    tensor: BackendTensor
    spec: keras.KerasTensor = field(init=False)

    def __post_init__(self) -> None:
        kind = keras.backend.standardize_dtype(self.tensor.dtype)
        self.spec = keras.KerasTensor(tuple(self.tensor.shape), dtype=kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.spec.shape)


@dataclass(eq=False, slots=True)
class MadeCall:
    """One call of a forward pass.

    Attributes:
        operation: the layer or operation.
        path: its path.
        holder: path of the layer in the model's own graph that it is, or is nested in.
        reads: its input tensors.
        makes: its output tensors.
    """

    operation: Operation
    path: str
    holder: str
    reads: list[Flow]
    makes: list[Flow]

    @property
    def is_sum(self) -> bool:
        """Whether it adds two tensors without broadcasting."""
        shapes = {flow.shape for flow in (*self.reads, *self.makes)}
        return isinstance(self.operation, SUMS) and len(self.reads) == 2 and len(shapes) == 1


@dataclass(frozen=True, eq=False, slots=True)
class FoundBlock:
    """A residual block that can be removed whole.

    Attributes:
        cut: cut that removes it.
        branches: index of a sum's call -> position of the operand that is the branch.
        gone: indices of the calls that are not needed without it.
        change: one minus the cosine similarity of the block's skip and its output.
        norms: index of a normalisation's call on the skip, which goes too -> its name.
    """

    cut: BlockCut
    branches: Mapping[int, int]
    gone: frozenset[int]
    change: float
    norms: Mapping[int, str] = field(default_factory=dict)

    @property
    def inexact(self) -> tuple[str, ...]:
        """The normalisations on the skip, described; the layer without its branch has them."""
        return tuple(f"{norm} on the skip of {self.cut.owner}" for norm in self.norms.values())


class _Watcher(OpInterpreter):
    """Runs a model on real tensors and records its calls with their inputs and outputs."""

    def __init__(self) -> None:
        super().__init__(self._watch)
        self.calls: list[MadeCall] = []
        self.layers: list[tuple[str, list[Flow], list[Flow]]] = []
        """(path, inputs, outputs) of each composite layer."""
        self._holder = ""
        self._inside = 0

    def note_layer(self, path: str, given: list[object], made: list[object]) -> None:
        if all(isinstance(flow, Flow) for flow in (*given, *made)):
            self.layers.append((path, given, made))  # type: ignore[arg-type]

    def _through_calls(
        self, layer: Layer, path: str, seen: Calls, tensors: Sequence[object]
    ) -> list[object]:
        self._holder, self._inside = path, self._inside + 1
        try:
            return super()._through_calls(layer, path, seen, tensors)
        finally:
            self._inside -= 1

    def _watch(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        reads = [item for item in flatten([list(arguments), keywords]) if isinstance(item, Flow)]
        given, options = map_structure(
            lambda item: item.tensor if isinstance(item, Flow) else item,
            (list(arguments), dict(keywords)),
        )
        made = call_layer(site.operation, given, options)
        number = len(self.calls)
        flows = map_structure(lambda tensor: Flow(number, tensor), made)
        holder = self._holder if self._inside else site.path
        self.calls.append(MadeCall(site.operation, site.path, holder, reads, flatten(flows)))
        return flows


def find_blocks(
    network: Network, model: keras.Model, arrays: Sequence[NDArray[np.generic]]
) -> list[Block]:
    """Find the residual blocks that can be removed whole, in the order in which they run.

    Args:
        network: trace of the model, which gives the cost of each block.
        model: model to run; unchanged.
        arrays: flat list of inputs.
    """
    whole = network.cost()
    found = []
    for one in watch_blocks(model, arrays):
        left = network.cost_without([one.cut])
        params, macs = whole.params - left.params, whole.macs - left.macs
        if macs:  # a block without MACs is no block of layers: an added position table, say
            found.append(Block(one.cut, params, macs, one.change, one.inexact))
    return found


def watch_blocks(model: keras.Model, arrays: Sequence[NDArray[np.generic]]) -> list[FoundBlock]:
    """Find the same blocks, with the positions of their sums in the pass."""
    watcher = _Watcher()
    with without_gradients():
        inputs = [Flow(-1 - n, tensor) for n, tensor in enumerate(convert_arrays(model, arrays))]
        outputs = watcher.run(model, inputs)
    graph = _Graph(watcher.calls, outputs)
    found = [*_in_layers(graph, watcher), *_in_graph(graph)]
    return sorted(_innermost(found), key=lambda one: min(one.branches))


class _Graph:
    """The calls of a forward pass and their dependencies."""

    def __init__(self, calls: Sequence[MadeCall], outputs: Sequence[Flow]) -> None:
        self.calls = calls
        self.times = Counter(call.path for call in calls)
        self._outputs = [flow.number for flow in outputs]
        self._before: list[set[int]] = []
        for call in calls:
            mine = {flow.number for flow in call.reads if flow.number >= 0}
            self._before.append(mine.union(*(self._before[number] for number in mine)))

    def behind(self, flow: Flow) -> set[int]:
        """Return the indices of the calls that a tensor depends on, including its own."""
        return {flow.number} | self._before[flow.number] if flow.number >= 0 else {flow.number}

    def not_needed(self, branches: Mapping[int, int]) -> frozenset[int]:
        """Return the calls not needed once these sums are replaced by their skips, and the sums."""
        waiting, needed = list(self._outputs), set()
        while waiting:
            number = waiting.pop()
            if number < 0 or number in needed:
                continue
            needed.add(number)
            reads = self.calls[number].reads
            if number in branches:
                reads = [reads[1 - branches[number]]]
            waiting += [flow.number for flow in reads]
        return frozenset(set(range(len(self.calls))) - needed) | branches.keys()


# -- sums in the model's own graph


def _in_graph(graph: _Graph) -> Iterator[FoundBlock]:
    """Find blocks among the sums of the model's own graph: sums whose branch is used only there."""
    for number, call in enumerate(graph.calls):
        if not call.is_sum or call.holder != call.path or graph.times[call.path] > 1:
            continue
        skip = _skip_operand(graph, call)
        if skip is None:
            continue
        branch = call.reads[1 - skip]
        gone = graph.not_needed({number: 1 - skip})
        private = graph.behind(branch) - graph.behind(call.reads[skip])
        if not private - {number} <= gone:  # something outside the block reads a part of the branch
            continue
        paths = list(dict.fromkeys(graph.calls[n].holder for n in sorted(gone - {number})))
        if any(graph.calls[n].holder in paths for n in set(range(len(graph.calls))) - gone):
            continue  # one of its layers is also used elsewhere
        stays = sorted(graph.behind(call.reads[skip]) - graph.behind(branch))
        keeps = tuple(graph.calls[n].holder for n in stays)
        with_weights = {c.holder for c in graph.calls if getattr(c.operation, "weights", None)}
        layers_gone = tuple(path for path in paths if path in with_weights)
        cut = BlockCut(call.path, keeps, place=skip, layers=layers_gone)
        change = _one_minus_cosine(call.reads[skip], call.makes[0])
        yield FoundBlock(cut, {number: 1 - skip}, gone, change)


def _skip_operand(graph: _Graph, call: MadeCall) -> int | None:
    """Return which operand of a sum is the skip; None if neither is.

    It is the operand that the other is computed from, or the one with fewer calls of its own if
    these are a chain of layers that starts at a value the other is computed from.
    """
    one, other = call.reads
    if one is other or one.number == other.number:
        return None
    behind = [graph.behind(flow) for flow in call.reads]
    if one.number in behind[1]:
        return 0
    if other.number in behind[0]:
        return 1
    alone = [behind[0] - behind[1], behind[1] - behind[0]]
    if len(alone[0]) == len(alone[1]):
        return None
    skip = 0 if len(alone[0]) < len(alone[1]) else 1
    begin = _chain_from(graph, call.reads[skip], alone[skip])
    return skip if begin is not None and begin in behind[1 - skip] else None


def _chain_from(graph: _Graph, flow: Flow, alone: set[int]) -> int | None:
    """Return the call from which a chain of private calls starts; None if they form no chain."""
    for _ in range(MOST_KEPT):
        reads = graph.calls[flow.number].reads
        if len(reads) != 1:
            return None
        flow = reads[0]
        if flow.number not in alone:
            return flow.number
    return None


# -- composite layers


def _in_layers(graph: _Graph, watcher: _Watcher) -> Iterator[FoundBlock]:
    """Find blocks among composite layers: layers that return an input plus something."""
    times = Counter(path for path, _, _ in watcher.layers)
    for path, given, made in watcher.layers:
        if not path or times[path] > 1 or len(made) != 1:
            continue
        for place, flow in enumerate(given):
            found = _find_skip_path(graph, made[0], flow)
            if found is None:
                continue
            gone = graph.not_needed(found.branches) | found.norms.keys()
            outside = {graph.calls[n].holder for n in gone} - {path}
            beyond = [holder for holder in outside if not path.startswith(f"{holder}.")]
            if beyond and any(holder for holder in beyond):
                continue  # calls outside the layer serve this layer alone
            cut = BlockCut(path, after="".join(found.after), place=place)
            change = _one_minus_cosine(flow, made[0])
            yield FoundBlock(cut, found.branches, gone, change, found.norms)
            break


@dataclass(frozen=True, slots=True)
class _SkipPath:
    """What lies on a path from a layer's output back towards its input.

    Attributes:
        branches: index of a sum -> position of its branch.
        after: names of the activations.
        norms: index of a normalisation's call -> its name.
    """

    branches: dict[int, int] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    norms: dict[int, str] = field(default_factory=dict)

    @property
    def is_skip(self) -> bool:
        """Whether a layer that returns its input can take the place of the whole.

        An activation stays behind it, a normalisation does not: one beside the other cannot go.
        """
        return bool(self.branches) and len(self.after) + bool(self.norms) < 2


def _find_skip_path(graph: _Graph, output: Flow, start: Flow) -> _SkipPath | None:
    """Find a path from a layer's output back to its input through sums, and what else may be there.

    That is one activation, or normalisations.
    """
    waiting = [(output, _SkipPath())]
    seen: set[int] = set()
    while waiting:
        flow, path = waiting.pop()
        if flow is start:
            return path if path.is_skip else None
        if flow.number < 0 or id(flow) in seen or start.number not in graph.behind(flow):
            continue
        seen.add(id(flow))
        call = graph.calls[flow.number]
        if call.is_sum:
            for skip in (1, 0):
                branches = {**path.branches, flow.number: 1 - skip}
                waiting.append((call.reads[skip], replace(path, branches=branches)))
        elif isinstance(call.operation, HAND_ON):
            waiting.append((call.reads[0], path))
        elif len(call.reads) != 1:
            continue
        elif (kind := _activation_of(call.operation)) is not None:
            waiting.append((call.reads[0], replace(path, after=(*path.after, kind))))
        elif (norm := _norm_of(call.operation)) is not None:
            norms = {**path.norms, flow.number: norm}
            waiting.append((call.reads[0], replace(path, norms=norms)))
    return None


def _norm_of(operation: Operation) -> str | None:
    """Name of one of Keras's own normalisations; a subclass may do anything."""
    name = type(operation).__name__
    return NORMS[name] if type(operation) is getattr(layers, name, None) and name in NORMS else None


def _activation_of(operation: Operation) -> str | None:
    if isinstance(operation, layers.Activation):
        name = getattr(operation.activation, "__name__", "")
        return name if name in ACTIVATIONS.values() else None
    if isinstance(operation, layers.ReLU):
        plain = not operation.negative_slope and not operation.threshold
        return "relu" if plain and operation.max_value is None else None
    name = ACTIVATIONS.get(type(operation).__name__)
    plain = name != "gelu" or getattr(operation, "approximate", False) is False
    return name if plain and not isinstance(operation, Layer) else None


# -- the innermost of nested blocks


def _innermost(found: Sequence[FoundBlock]) -> list[FoundBlock]:
    """Drop blocks that contain another one; of blocks with the same sums, keep the first."""
    kept = list({frozenset(one.branches): one for one in reversed(found)}.values())
    return [one for one in kept if not any(_contains(one, other) for other in kept)]


def _contains(one: FoundBlock, other: FoundBlock) -> bool:
    """Return whether a block contains another one, which is then listed in its place."""
    if one is other:
        return False
    if set(other.branches) < set(one.branches):
        # A layer with two sums is one block; a stack consists of other layers with sums.
        return one.cut.layers == () and other.cut.owner.startswith(f"{one.cut.owner}.")
    return bool(set(other.branches) & one.gone) and not set(one.branches) & set(other.branches)


# -- in a model whose layers have other names


def find_sums(model: keras.Model, blocks: Iterable[BlockCut]) -> tuple[BlockCut, ...]:
    """Rename the sums of blocks to the names that they have in this model.

    The automatic name of a sum has a number that differs between sessions. The sum of a block is
    the one that has an operand computed by the block's layers, and another that is not.
    """
    known = dict(calls_of(model))
    found = []
    for block in blocks:
        owner = block.owner
        if block.layers and owner not in known:
            sums = [path for path, reads in _sums_of(model) if _is_sum_of_block(block, reads)]
            owner = sums[0] if len(sums) == 1 else owner
        found.append(replace(block, owner=owner))
    return tuple(found)


def _sums_of(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, list[set[str]]]]:
    """Iterate over (path of a sum, nearest upstream layers with weights of each operand)."""
    nearest: dict[int, set[str]] = {}
    for node in nodes_of(graph_of(model)):
        path = prefix + name_in(model, node.operation)
        reads = [nearest.get(id(tensor), set()) for tensor in node.input_tensors]
        made = {path} if getattr(node.operation, "weights", None) else set().union(*reads)
        nearest.update((id(tensor), made) for tensor in node.outputs)
        if is_model(node.operation):
            yield from _sums_of(node.operation, f"{path}.")
        elif isinstance(node.operation, SUMS) and len(reads) == 2:
            yield path, reads


def _is_sum_of_block(block: BlockCut, reads: Sequence[set[str]]) -> bool:
    gone, (skip, branch) = set(block.layers), (reads[block.place], reads[1 - block.place])
    return bool(branch) and branch <= gone and not skip & gone


def _one_minus_cosine(one: Flow, other: Flow) -> float:
    both = []
    for flow in (one, other):
        flat = keras.ops.cast(keras.ops.reshape(flow.tensor, (-1,)), "float32")
        every = max(1, int(flat.shape[0]) // SAMPLES)
        both.append(np.asarray(keras.ops.convert_to_numpy(flat[::every]), np.float64))
    length = float(np.linalg.norm(both[0]) * np.linalg.norm(both[1]))
    return 1 - float(both[0] @ both[1]) / length if length else 0.0
