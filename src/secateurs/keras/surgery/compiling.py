"""Compiling a new model as the old one was, its optimizer's state (momentum, ...) sliced along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import keras

from secateurs.channels.cut import Cut, TensorCut
from secateurs.keras.internals import (
    Variable,
    compile_arguments_of,
    exclude_from_decay_,
    variables_of,
    variables_without_decay,
)
from secateurs.keras.model.tensors import ModelTensor, list_tensors
from secateurs.keras.surgery.slicing import slice_tensor

OptimizerSlot = tuple[str | None, int]
"""(the tensor that a state belongs to, None for what belongs to all; its number among these)."""


def compile_like_(
    model: keras.Model,
    small: keras.Model,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None = None,
    small_leaves: Sequence[ModelTensor] | None = None,
) -> None:
    """Compile the small model as the model is; its optimizer's state (momentum, ...) is sliced."""
    if not model.compiled:
        return
    if type(model).compile is not keras.Model.compile:  # a class of the user's says how
        small.compile_from_config(model.get_compile_config())
        return
    settings = compile_arguments_of(model)
    settings["metrics"] = _fresh(settings.get("metrics"))
    settings["weighted_metrics"] = _fresh(settings.get("weighted_metrics"))
    settings["optimizer"] = cut_optimizer(model, small, cut, leaves, small_leaves)
    small.compile(**settings)


def _fresh(metrics: object) -> object:
    """Metrics that count from zero and are not shared with the user's model."""

    def fresh(metric: object) -> object:
        if not isinstance(metric, keras.metrics.Metric):
            return metric
        new: keras.metrics.Metric = type(metric).from_config(metric.get_config())
        return new

    renewed: object = keras.tree.map_structure(fresh, metrics)
    return renewed


def cut_optimizer(
    model: keras.Model,
    small: keras.Model,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None = None,
    small_leaves: Sequence[ModelTensor] | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer for the new model: same settings, the state of what is in both sliced along.

    State that has neither the shape of the variable it belongs to nor that of the new state is
    left as a new optimizer starts it; so is that of layers that were not in the model, and all of
    it where the optimizer was built for other variables than the model's.
    """
    optimizer = model.optimizer
    new = same_optimizer(optimizer)
    names = {id(leaf.variable): leaf.name for leaf in leaves or list_tensors(model)}
    theirs = {leaf.name: leaf.variable for leaf in small_leaves or list_tensors(small)}
    spared = [
        names[id(variable)]
        for variable in variables_without_decay(optimizer, model.variables)
        if id(variable) in names
    ]
    exclude_from_decay_(new, [theirs[name] for name in spared if name in theirs])
    known = variables_of(optimizer) if optimizer.built else []
    if not known or any(id(variable) not in names for variable in known):
        return new
    before = [names[id(variable)] for variable in known]
    after = _to_train(before, theirs, small)
    slots = _build(new, [theirs[name] for name in after], after)
    # The same variables in the same order have their states in the same order.
    old_slots = slots if before == after else _build(same_optimizer(optimizer), known, before)
    values = dict(zip(old_slots, optimizer.variables, strict=True))
    for slot, made in zip(slots, new.variables, strict=True):
        if (old := values.get(slot)) is None:
            continue
        value = slice_tensor(old.value, cut_of_slot(cut, slot[0], tuple(old.shape)))
        if tuple(value.shape) == tuple(made.shape):
            made.assign(value)
    return new


def cut_of_slot(cut: Cut, owner: str | None, shape: tuple[int, ...]) -> TensorCut | None:
    """What goes from a state of an optimizer: as from its weight, where it is of that shape."""
    known = cut.tensors.get(owner) if owner is not None else None
    return known if known is not None and known.shape == shape else None


def same_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer of the same settings."""
    config = optimizer.get_config()
    rate = getattr(optimizer, "_learning_rate", None)
    if "learning_rate" in config and rate is not None and not hasattr(rate, "assign"):
        config["learning_rate"] = rate  # a schedule or function, maybe the user's own
    return type(optimizer).from_config(config)


def _to_train(
    before: Sequence[str], theirs: Mapping[str, Variable], small: keras.Model
) -> list[str]:
    """What the new optimizer trains: what the old one did, and what has come in."""
    stay = [name for name in before if name in theirs]
    if len(stay) == len(before) == len(small.trainable_variables):
        return stay
    names = {id(variable): name for name, variable in theirs.items()}
    # JAX pairs what an optimizer trains with what the model does, one by one.
    in_order = [names[id(one)] for one in small.trainable_variables if id(one) in names]
    return list(dict.fromkeys([*in_order, *stay]))


def _build(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable], names: Sequence[str]
) -> list[OptimizerSlot]:
    """Build the optimizer; for each of its states, in order, where it belongs."""
    references = _build_with_references(optimizer, variables)
    owners = {id(variable): name for variable, name in zip(variables, names, strict=True)}
    counted: Counter[str | None] = Counter()
    slots: list[OptimizerSlot] = []
    for state in optimizer.variables:
        owner = owners.get(id(references.get(id(state))))
        slots.append((owner, counted[owner]))
        counted[owner] += 1
    return slots


def _build_with_references(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable]
) -> dict[int, Variable]:
    """Build the optimizer; state (by ``id``) -> the variable of the model that it belongs to."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    references: dict[int, Variable] = {}
    made = keeper.add_variable_from_reference

    def add_and_note(
        reference_variable: Variable, *arguments: object, **keywords: object
    ) -> Variable:
        state = made(reference_variable, *arguments, **keywords)
        references[id(state)] = reference_variable
        return state

    keeper.add_variable_from_reference = add_and_note
    try:
        optimizer.build(list(variables))
    finally:
        del keeper.add_variable_from_reference
    return references
