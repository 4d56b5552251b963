"""Dry run: test whether sizes in the code of layers follow the channels around them.

A reshape in the code of a composite layer takes lengths. A length computed from the shape of a
tensor follows a cut; a length stored in an attribute does not. So a copy of the model with one
channel fewer is run on tensors without data, and where the shape of a call's result differs from
the one that its labels predict, the channels concerned are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import Ids
from secateurs.channels.moved_labels import add_frozen_side
from secateurs.channels.network import Network
from secateurs.keras.internals import Variable, graph_of, infer
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.surgery.attribute_sizes import AttributePlace, find_attributes, list_constants
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.tracing.interpreter import CallSite, OpInterpreter
from secateurs.keras.tracing.op_record import Assumed, Axes, OpRecord
from secateurs.keras.tracing.tracer import Tracer

Tie = tuple[Ids, Ids]
"""Two arrays of units of the same length, equated element by element."""


def settle_(
    tracer: Tracer,
    model: keras.Model,
    shapes: Sequence[tuple[int, ...]],
    build: Callable[[Sequence[Tie]], Network],
) -> Network:
    """Test all assumed sizes and freeze the channels whose size does not follow.

    All assumptions are tested at once. If that fails, bisection finds the failing code. Tying equal
    widths together is tried once; what still fails is frozen, and the rest is tested again.

    Args:
        tracer: tracer that has followed the model; its equations are extended.
        model: dense model; unchanged.
        shapes: shapes of its inputs in the trace.
        build: builds the network from the tracer's present equations and from ties to be tested.

    Returns:
        The network of the extended equations.
    """
    network = build(())
    waiting = list(tracer.assumed)
    trial = ShapeTrial(model, shapes, tracer.operations)
    tried = is_bound = False
    while waiting and not trial.follows(network, waiting):
        kinds = sorted({assumed.kind for assumed in waiting})
        wrong = _find_failing(
            trial, network, {kind: _first_call_of(waiting, kind) for kind in kinds}
        )
        if not is_bound:
            is_bound = True
            if _bind_attributes(tracer, trial, waiting, wrong, build):
                network = build(())
                continue
        if not tried:
            tried = True
            tied = _tie_widths(tracer, trial, waiting, wrong, build)
            if tied is not None:
                return tied
        waiting = _freeze_failing(tracer, waiting, wrong)
        network = build(())
    return _check_all(tracer, trial, network, build) if tracer.assumed else network


def _freeze_failing(
    tracer: Tracer, waiting: Sequence[Assumed], wrong: Sequence[tuple[str, int]]
) -> list[Assumed]:
    """Freeze what these kinds of code assume (all, if none is named), and return the rest."""
    for assumed in waiting:
        if not wrong or assumed.kind in wrong:
            tracer.equations.freeze(assumed.units, assumed.why)
    return [assumed for assumed in waiting if wrong and assumed.kind not in wrong]


def _bind_attributes(
    tracer: Tracer,
    trial: ShapeTrial,
    waiting: Sequence[Assumed],
    wrong: Sequence[tuple[str, int]],
    build: Callable[[Sequence[Tie]], Network],
) -> bool:
    """Let integer attributes of layers follow the channels that they count; whether any does.

    All are tried at once. If that fails, they are tried one after the other, and what those count
    that do not follow is frozen: a number of positions in a head may follow in every shape, and yet
    be part of a factor (attention's scale), which must not change.
    """
    classes = {name for name, _ in wrong}
    concerned = [one for one in waiting if not wrong or one.kind[0] in classes]
    found = find_attributes(trial.model, concerned)
    names = list(dict.fromkeys(name for _, name in found))
    accepted = names if names and _follow(tracer, trial, found, names, build) else []
    if not accepted and len(names) > 1:
        for name in names:
            if _follow(tracer, trial, found, [*accepted, name], build):
                accepted.append(name)
    for (path, name), counted in found.items() if accepted else ():
        _settle_attribute(tracer, path, name, counted, follows=name in accepted)
    return bool(accepted)


def _settle_attribute(
    tracer: Tracer, path: str, name: str, counted: Sequence[Ids], *, follows: bool
) -> None:
    """Record that an attribute counts these units, or freeze them where it does not follow."""
    if not follows:
        for units in counted:
            reason = f"{path}.{name}, which counts them, is part of more than shapes"
            tracer.equations.freeze(units, reason)
        return
    tracer.sizes[path, name, None] = (counted[0],)
    for units in counted[1:]:
        tracer.equations.equate(counted[0], units)


def _follow(
    tracer: Tracer,
    trial: ShapeTrial,
    found: Mapping[AttributePlace, Sequence[Ids]],
    names: Sequence[str],
    build: Callable[[Sequence[Tie]], Network],
) -> bool:
    """Return whether these attributes can follow what they count, by shapes and by constants."""
    chosen = {key: counted for key, counted in found.items() if key[1] in names}
    ties = [(counted[0], units) for counted in chosen.values() for units in counted[1:]]
    before = dict(tracer.sizes)
    for (path, name), counted in chosen.items():
        tracer.sizes[path, name, None] = (counted[0],)
    try:
        network = build(ties)
        units = [units for counted in chosen.values() for units in counted]
        groups = list(_groups_of(network, units))
        return bool(groups) and trial.fits(network, groups, keeps_constants=True)
    finally:
        tracer.sizes.clear()
        tracer.sizes.update(before)


def _check_all(
    tracer: Tracer, trial: ShapeTrial, network: Network, build: Callable[[Sequence[Tie]], Network]
) -> Network:
    """Freeze groups whose removal alone gives a wrong shape, and return the network.

    Code may give a result the shape of another tensor (``reshape(x, shape(inputs))``). If the two
    lengths are equal only by coincidence in the dense model, one may be cut without the other.
    """
    for name in _find_misfits(
        trial, network, [group.name for group in network.groups if len(group) > 1]
    ):
        atoms = next(group.channels for group in network.groups if group.name == name)
        for tensor in network.tensors.values():
            for units in tensor.axes.values():
                held = units[np.isin(network.solution.atoms[units], atoms).any(axis=1)]
                tracer.equations.freeze(
                    held, "their number is also another size, which does not follow"
                )
    return build(())


def _find_misfits(trial: ShapeTrial, network: Network, names: Sequence[str]) -> list[str]:
    """Find by bisection the groups that give a wrong shape when one of their channels is cut."""
    if trial.fits(network, names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    return [
        name
        for part in (names[:middle], names[middle:])
        for name in _find_misfits(trial, network, part)
    ]


def _tie_widths(
    tracer: Tracer,
    trial: ShapeTrial,
    waiting: Sequence[Assumed],
    wrong: Sequence[tuple[str, int]],
    build: Callable[[Sequence[Tie]], Network],
) -> Network | None:
    """Equate widths that one size in the code stands for; None if that does not help.

    Code that splits a layer's output by a fraction of another width (``shape(x)[-1] // heads``)
    needs both widths to be equal. The number of heads, stored in the layer's configuration, is
    frozen then.
    """
    to_tie = [assumed for assumed in waiting if not wrong or assumed.kind in wrong]
    ties, heads = _list_ties(tracer, to_tie)
    if not ties:
        return None
    tied = build([*ties, *heads])
    stay = [
        (assumed.units, add_frozen_side(tracer.equations, len(assumed.units))) for assumed in to_tie
    ]
    if _count_free(tied) < _count_free(build(stay)) or not trial.follows(tied, waiting):
        return None  # one width is frozen for another reason, and would freeze the other
    for units, others in (*ties, *heads):
        tracer.equations.equate(units, others)
    return build(())


def _list_ties(tracer: Tracer, to_tie: Sequence[Assumed]) -> tuple[list[Tie], list[Tie]]:
    """Return (widths to equate in pairs, numbers of heads paired with what is frozen)."""
    ties: list[Tie] = []
    heads: list[Tie] = []
    for assumed in to_tie:
        grids = [tracer.equations.sides(whole) or () for whole in assumed.wholes]
        inner = {side.tobytes() for sides in grids for side in sides}
        heads += [
            (sides[0], add_frozen_side(tracer.equations, len(sides[0])))
            for sides in grids
            if len(sides) == 2
        ]
        for whole in (assumed.units, *assumed.wholes):
            others = _latest_of_same_length(tracer, assumed.step, whole)
            if others is not None and whole.tobytes() not in inner:
                ties.append((whole, others))
    return ties, heads


def _count_free(network: Network) -> int:
    """Count the positions along all axes that hold a removable channel."""
    return sum(
        int(network.solution.atoms[units].any(axis=1).sum())
        for tensor in network.tensors.values()
        for units in tensor.axes.values()
    )


def _latest_of_same_length(tracer: Tracer, step: int, units: Ids) -> Ids | None:
    for operation in reversed(tracer.operations[:step]):
        for _, axes in operation.inputs:
            for others in axes.values():
                if len(others) == len(units) and not np.array_equal(others, units):
                    return others
    return None


def _find_failing(
    trial: ShapeTrial, network: Network, firsts: Mapping[tuple[str, int], Sequence[Assumed]]
) -> list[tuple[str, int]]:
    """Find by bisection the kinds of code whose sizes do not follow; mostly there are few."""
    if trial.follows(network, [assumed for first in firsts.values() for assumed in first]):
        return []
    kinds = list(firsts)
    if len(kinds) == 1:
        return kinds
    middle = len(kinds) // 2
    return [
        kind
        for part in (kinds[:middle], kinds[middle:])
        for kind in _find_failing(trial, network, {kind: firsts[kind] for kind in part})
    ]


def _first_call_of(waiting: Sequence[Assumed], kind: tuple[str, int]) -> list[Assumed]:
    """Return the assumptions of a kind's first call; other layers of the class behave alike."""
    step = next(assumed.step for assumed in waiting if assumed.kind == kind)
    return [assumed for assumed in waiting if assumed.step == step]


@dataclass(frozen=True, eq=False, slots=True)
class ShapeTrial:
    """Cuts one channel of some groups and compares the resulting shapes with the predicted ones.

    Attributes:
        model: the dense model.
        shapes: shapes of its inputs.
        operations: calls of its trace.
    """

    model: keras.Model
    shapes: Sequence[tuple[int, ...]]
    operations: Sequence[OpRecord]

    def follows(self, network: Network, assumed: Sequence[Assumed]) -> bool:
        """Return whether cutting a channel of each group concerned gives the predicted shapes."""
        return self.fits(network, list(_groups_of(network, [a.units for a in assumed])))

    def fits(
        self, network: Network, names: Sequence[str], *, keeps_constants: bool = False
    ) -> bool:
        """Return whether cutting a channel of each of these groups gives the predicted shapes.

        Args:
            network: network to cut.
            names: names of its groups.
            keeps_constants: whether the numbers that calls compute with have to stay as well.
        """
        if not names:
            return True
        cut = network.cut({name: [0] for name in names})
        kept = network.solution.mark_kept(network.alive(network.removed_by(cut)))
        inputs = [
            keras.KerasTensor(shape, dtype=like.dtype)
            for shape, like in zip(self.shapes, graph_of(self.model).inputs, strict=True)
        ]
        try:
            received, constants = _run(cut_copy(self.model, cut, compiled=False), inputs)
        except Exception:  # noqa: BLE001 - code that raises anything does not follow
            return False
        expected = [
            [_cut_shape(shape, axes, kept) for shape, axes in operation.outputs]
            for operation in self.operations
        ]
        if received != expected or not keeps_constants:
            return received == expected
        dense = _run(self.model, inputs)[1]
        return len(constants) == len(dense) and np.allclose(constants, dense)


def _cut_shape(shape: Sequence[int], axes: Axes, kept: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(
        int(kept[axes[at]].sum()) if at in axes else length for at, length in enumerate(shape)
    )


def _groups_of(network: Network, units: Sequence[Ids]) -> Iterator[str]:
    atoms = np.unique(np.concatenate([network.solution.atoms[ids].ravel() for ids in units]))
    for group in network.groups:
        if len(group) > 1 and np.isin(group.channels, atoms).any():
            yield group.name


def _run(
    model: keras.Model, inputs: Sequence[keras.KerasTensor]
) -> tuple[list[list[tuple[int, ...]]], list[float]]:
    """Return (output shapes of each call, inferred without data; numbers it computes with)."""
    found: list[list[tuple[int, ...]]] = []
    constants: list[float] = []

    def spec(item: object) -> object:
        if isinstance(item, Variable):
            return keras.KerasTensor(tuple(item.shape), dtype=item.dtype)
        return item

    def step(site: CallSite, arguments: Sequence[object], keywords: dict[str, object]) -> object:
        constants.extend(list_constants(site, arguments, keywords))
        given, options = map_structure(spec, (list(arguments), keywords))
        made = site.operation.compute_output_spec(*given, **options)
        if any(None in tensor.shape for tensor in flatten(made)):
            made = infer(site.operation, *given, **options)
        found.append([tuple(tensor.shape) for tensor in flatten(made)])
        return made

    OpInterpreter(step).run(model, inputs)
    return found, constants
