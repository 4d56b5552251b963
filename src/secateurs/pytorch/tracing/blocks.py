"""Find residual blocks in a forward pass: modules that return their input plus something.

A sequence of such modules also returns its input plus something, so one of several nested modules
is chosen: an element of a list of like modules, else the innermost ones that make up the others.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateurs.channels.blocks import Block, BlockCut
from secateurs.channels.network import Network
from secateurs.pytorch.huggingface import counts_layers
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.tracing.skips import ACTIVATIONS, NORMS, ModuleCall, SkipValue, SkipWatcher

MOST_KEPT = 3
"""Maximum number of consecutive children on a skip."""


@dataclass(eq=False, slots=True)
class FoundBlock:
    """A module that can be removed whole.

    Attributes:
        cut: the cut that removes it.
        values: values on its skip, from its output back to its input.
        change: one minus the cosine between the value that enters its skip and its output.
    """

    cut: BlockCut
    values: list[SkipValue]
    change: float

    @property
    def path(self) -> str:
        """Dotted path of the module."""
        return self.cut.owner

    @property
    def sums(self) -> set[int]:
        """Indices of the additions on its skip."""
        return {value.number for value in self.values[:-1] if value.is_sum}

    @property
    def branches(self) -> list[tuple[int, int]]:
        """(index of the addition, which of its operands is the branch) for each on the skip."""
        found = []
        for value, before in zip(self.values, self.values[1:], strict=False):
            if value.is_sum:
                found.append((value.number, 1 - value.skips.index(before)))
        return found

    @property
    def norms(self) -> list[str]:
        """Names of the normalisations on the skip."""
        return [v.packet.__name__ for v in self.values[:-1] if v.packet in NORMS and v.packet]


def find_blocks(network: Network, model: nn.Module, example_inputs: Any) -> list[Block]:
    """Find the residual blocks that can be removed whole, in the order in which they run.

    Args:
        network: trace of the model, which gives the cost of each block.
        model: a private copy, which is run.
        example_inputs: inputs with values.
    """
    return [_describe(network, found) for found in watch_blocks(model, example_inputs)]


def watch_blocks(model: nn.Module, example_inputs: Any) -> list[FoundBlock]:
    """Find the same blocks, with the positions of their additions in the pass."""
    watcher = SkipWatcher()
    arguments, keywords = parse_example_inputs(example_inputs, model)
    watcher.run(model, arguments, dict(keywords))
    once = {path: calls[0] for path, calls in watcher.calls.items() if len(calls) == 1}
    modules = dict(model.named_modules())
    found = {}
    for path, call in once.items():
        if not path or not _has_matrix(modules[path]):
            continue
        if (one := _block(call, once, modules[path])) is not None:
            found[path] = one
    innermost = [one for path in _select_outermost(found) for one in _choose(path, found, modules)]
    order = {path: number for number, path in enumerate(watcher.calls)}
    _shorten_counted_(model, modules, innermost)
    return sorted(innermost, key=lambda one: order[one.path])


# -- whether a module is a block


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _block(
    call: ModuleCall, calls: Mapping[str, ModuleCall], module: nn.Module
) -> FoundBlock | None:
    """The residual block that a module's call is, or None if it is none."""
    if call.output is None or call.gives < 0:
        return None
    for number, (at, named, value, shape) in enumerate(call.given):
        others = [other for n, (_, _, other, _) in enumerate(call.given) if n != number]
        if any(_depends(other, value) for other in others):
            continue  # the branch also reads a value computed outside from the same input
        place, keyword = _parameter(module, at, named)
        change = call.changes[number]
        path = _path_on_skip(call.output, value) if shape == call.shape else None
        if path is not None and any(one.is_sum for one in path[:-1]):
            after = _activation_left(path)
            if after is not None:
                cut = BlockCut(call.path, (), after, place, keyword, call.gives)
                return FoundBlock(cut, path, change)
        found = _find_projection(call, calls, value)
        if found is not None:
            keeps, after, path, change = found
            cut = BlockCut(call.path, keeps, after, place, keyword, call.gives)
            return FoundBlock(cut, path, change)
    return None


def _parameter(module: nn.Module, place: int, keyword: str) -> tuple[int, str]:
    """(position, name) of an argument of a module's forward, whichever way it was passed."""
    names = list(inspect.signature(module.forward).parameters.values())
    plain = [
        n.name for n in names if n.kind is not n.VAR_POSITIONAL and n.kind is not n.VAR_KEYWORD
    ]
    if keyword:
        return (plain.index(keyword) if keyword in plain else len(plain)), keyword
    return place, plain[place] if place < len(plain) else ""


def _depends(value: SkipValue, on: SkipValue) -> bool:
    """Whether a value was computed from another, directly or not."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if one is on:
            return True
        if id(one) not in seen and one.number > on.number:
            seen.add(id(one))
            waiting += one.parents
    return False


def _path_on_skip(output: SkipValue, start: SkipValue) -> list[SkipValue] | None:
    """The values from an output back to its start along skips; None where no such path exists."""
    stack: list[list[SkipValue]] = [[output]]
    seen: set[int] = set()
    while stack:
        path = stack.pop()
        last = path[-1]
        if last is start:
            return path
        if id(last) not in seen and last.number > start.number:
            seen.add(id(last))
            stack += [[*path, one] for one in last.skips]
    return None


def _activation_left(path: Sequence[SkipValue]) -> str | None:
    """The activation that stays on a skip without its branch, '' for none; None if unsupported.

    Unsupported are two different activations, and an activation along with a normalisation, since
    normalisations on the skip are removed with the block. A ReLU has no effect on a value that is
    never negative.
    """
    found = {
        ACTIVATIONS[value.packet]
        for value in path[:-1]
        if value.packet is not None and value.packet in ACTIVATIONS
    }
    if any(value.packet in NORMS for value in path[:-1]):
        return "" if not found else None
    if len(found) > 1:
        return None
    after = next(iter(found), "")
    return "" if after == "relu" and path[-1].is_never_negative else after


def _find_projection(
    call: ModuleCall, calls: Mapping[str, ModuleCall], start: SkipValue
) -> tuple[tuple[str, ...], str, list[SkipValue], float] | None:
    """(children on the skip, activation, values, change) of a block with layers on its skip."""
    values = _list_values_to_sum(call.output)
    if not values or any(v.packet in NORMS for v in values[:-1]):
        return None
    total = values[-1]
    kinds = [ACTIVATIONS[v.packet] for v in values[:-1] if v.packet in ACTIVATIONS]
    chains = [_chain(call, calls, operand, start) for operand in total.skips]
    costs = [_steps(call, calls, chain) for chain in chains]
    if len(kinds) > 1 or costs[0] == costs[1]:
        return None
    which = 0 if costs[0] < costs[1] else 1
    chain = chains[which]
    if not chain:
        return None
    after = kinds[0] if kinds else ""
    return chain, after, [*values, total.skips[which]], total.changes[which]


def _list_values_to_sum(output: SkipValue | None) -> list[SkipValue]:
    """The values from an output back to the last sum on its skip; none where there is no sum."""
    values = [] if output is None else [output]
    while values and not values[-1].is_sum:
        if len(values[-1].skips) != 1:
            return []
        values.append(values[-1].skips[0])
    return values


def _chain(
    call: ModuleCall, calls: Mapping[str, ModuleCall], operand: SkipValue, start: SkipValue
) -> tuple[str, ...] | None:
    """The children that lead from a block's input to an operand, in order; None if others do."""
    chain: list[str] = []
    value = operand
    while value is not start:
        child = _child_giving(call, calls, value)
        if child is None or len(chain) == MOST_KEPT:
            return None
        chain.insert(0, child.path[len(call.path) + 1 :])
        value = child.given[0][2]
    return tuple(chain)


def _child_giving(
    call: ModuleCall, calls: Mapping[str, ModuleCall], value: SkipValue
) -> ModuleCall | None:
    depth = call.path.count(".") + 1
    for path, child in calls.items():
        is_child = path.startswith(f"{call.path}.") and path.count(".") == depth
        if is_child and child.output is value and child.gives == 0 and len(child.given) == 1:
            return child
    return None


def _steps(call: ModuleCall, calls: Mapping[str, ModuleCall], chain: Sequence[str] | None) -> float:
    if chain is None:
        return float("inf")
    return sum(calls[f"{call.path}.{child}"].steps for child in chain)


# -- which of several nested blocks


def _choose(
    path: str, found: Mapping[str, FoundBlock], modules: Mapping[str, nn.Module]
) -> list[FoundBlock]:
    """Choose among nested blocks: this one, or the blocks inside it.

    The inner ones are kept where some lie on a branch, or where all of them together make up this
    one; but an element of a list of like modules is kept whole if no inner one is such an element.
    """
    inside = _select_outermost([one for one in found if one.startswith(f"{path}.")])
    inner = [one for p in inside for one in _choose(p, found, modules)]
    here = found[path]
    if not inner:
        return [here]
    on_skip = [one for one in inner if one.sums <= here.sums]
    if len(on_skip) < len(inner):
        return inner  # some inner blocks lie on its branch
    made_of_them = here.sums == set().union(*(one.sums for one in inner))
    is_unit = _is_listed(path, modules) and not any(_is_listed(o.path, modules) for o in inner)
    return inner if made_of_them and not is_unit else [here]


def _select_outermost(paths: Collection[str]) -> list[str]:
    """Those of these modules that are inside none of the others."""
    return [path for path in paths if not any(path.startswith(f"{o}.") for o in paths)]


def _is_listed(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module is one of several of its class in a list."""
    parent, _, name = path.rpartition(".")
    holder = modules.get(parent)
    if not name.isdecimal() or not isinstance(holder, (nn.ModuleList, nn.Sequential)):
        return False
    kinds = Counter(type(child) for child in holder)
    return kinds[type(modules[path])] > 1


# -- lists that shrink, and costs


def _shorten_counted_(
    model: nn.Module, modules: Mapping[str, nn.Module], found: Sequence[FoundBlock]
) -> None:
    """Let lists shrink where a Transformers configuration counts the blocks in them."""
    counted: dict[str, bool] = {}
    for one in found:
        parent, _, number = one.path.rpartition(".")
        if not isinstance(modules.get(parent), nn.ModuleList) or one.cut.keeps or one.cut.after:
            continue
        if parent not in counted:
            counted[parent] = counts_layers(model, parent, int(number))
        if counted[parent]:
            one.cut = replace(one.cut, shortens=True)


def _describe(network: Network, found: FoundBlock) -> Block:
    whole, left = network.cost(), network.cost_without([found.cut])
    norms = tuple(f"{norm} on the skip of {found.path}" for norm in found.norms)
    params, macs = whole.params - left.params, whole.macs - left.macs
    return Block(found.cut, params, macs, found.change, norms)
