"""Compile a new model like the old one, with its optimizer's state (momentum, ...) sliced."""

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
"""(name of the tensor a state belongs to, or None; index among the states of that tensor)."""


def compile_like_(
    model: keras.Model,
    small: keras.Model,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None = None,
    small_leaves: Sequence[ModelTensor] | None = None,
) -> None:
    """Compile the small model like the original; its optimizer's state is sliced."""
    if not model.compiled:
        return
    if type(model).compile is not keras.Model.compile:  # the user's class defines how
        small.compile_from_config(model.get_compile_config())
        return
    settings = compile_arguments_of(model)
    settings["metrics"] = _renew(settings.get("metrics"))
    settings["weighted_metrics"] = _renew(settings.get("weighted_metrics"))
    settings["optimizer"] = cut_optimizer(model, small, cut, leaves, small_leaves)
    small.compile(**settings)


def _renew(metrics: object) -> object:
    """Return new metrics of the same configuration, so that none is shared with the model."""

    def renew(metric: object) -> object:
        if not isinstance(metric, keras.metrics.Metric):
            return metric
        new: keras.metrics.Metric = type(metric).from_config(metric.get_config())
        return new

    renewed: object = keras.tree.map_structure(renew, metrics)
    return renewed


def cut_optimizer(
    model: keras.Model,
    small: keras.Model,
    cut: Cut,
    leaves: Sequence[ModelTensor] | None = None,
    small_leaves: Sequence[ModelTensor] | None = None,
) -> keras.optimizers.Optimizer:
    """Return an optimizer for the new model, with the same settings and the state sliced along.

    A state is left at its initial value if it has neither the shape of its variable nor that of the
    new state, or if its layer is new. All are, if the optimizer was built for variables that are
    not the model's.
    """
    optimizer = model.optimizer
    new = same_optimizer(optimizer)
    names = {id(leaf.variable): leaf.name for leaf in leaves or list_tensors(model)}
    theirs = {leaf.name: leaf.variable for leaf in small_leaves or list_tensors(small)}
    _exclude_same_from_decay_(new, model, names, theirs)
    known = variables_of(optimizer) if optimizer.built else []
    if not known or any(id(variable) not in names for variable in known):
        return new
    before = [names[id(variable)] for variable in known]
    after = _names_to_train(before, theirs, small)
    slots = _build(new, [theirs[name] for name in after], after)
    # For the same variables in the same order, the states have the same order, too.
    old_slots = slots if before == after else _build(same_optimizer(optimizer), known, before)
    values = dict(zip(old_slots, optimizer.variables, strict=True))
    for slot, made in zip(slots, new.variables, strict=True):
        if slot in values:
            _slice_state_(made, values[slot], cut, slot[0])
    return new


def _exclude_same_from_decay_(
    new: keras.optimizers.Optimizer,
    model: keras.Model,
    names: Mapping[int, str],
    theirs: Mapping[str, Variable],
) -> None:
    """Exclude from weight decay the variables that the model's optimizer excludes."""
    without_decay = variables_without_decay(model.optimizer, model.variables)
    undecayed = [names[id(variable)] for variable in without_decay if id(variable) in names]
    exclude_from_decay_(new, [theirs[name] for name in undecayed if name in theirs])


def _slice_state_(made: Variable, old: Variable, cut: Cut, owner: str | None) -> None:
    """Slice a state of the old optimizer into the new one's, if the shapes then agree."""
    value = slice_tensor(old.value, cut_of_slot(cut, owner, tuple(old.shape)))
    if tuple(value.shape) == tuple(made.shape):
        made.assign(value)


def cut_of_slot(cut: Cut, owner: str | None, shape: tuple[int, ...]) -> TensorCut | None:
    """Return the cut of an optimizer state: that of its weight, if it has the weight's shape."""
    known = cut.tensors.get(owner) if owner is not None else None
    return known if known is not None and known.shape == shape else None


def same_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the same settings."""
    config = optimizer.get_config()
    rate = getattr(optimizer, "_learning_rate", None)
    if "learning_rate" in config and rate is not None and not hasattr(rate, "assign"):
        config["learning_rate"] = rate  # a schedule or a function, possibly user-defined
    return type(optimizer).from_config(config)


def _names_to_train(
    before: Sequence[str], theirs: Mapping[str, Variable], small: keras.Model
) -> list[str]:
    """Return the names to train: those the old optimizer trained, and those of new layers."""
    stay = [name for name in before if name in theirs]
    if len(stay) == len(before) == len(small.trainable_variables):
        return stay
    names = {id(variable): name for name, variable in theirs.items()}
    # On JAX, Keras pairs the optimizer's variables with the model's by position.
    in_order = [names[id(one)] for one in small.trainable_variables if id(one) in names]
    return list(dict.fromkeys([*in_order, *stay]))


def _build(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable], names: Sequence[str]
) -> list[OptimizerSlot]:
    """Build the optimizer; return the slot of each of its states, in order."""
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
    """Build the optimizer; map each state (by ``id``) to the model's variable it belongs to."""
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
