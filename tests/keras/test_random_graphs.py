"""Random functional models with random cuts are proven and checked by independent routes."""

import os

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import secateurs as sec
from contract.by_hand import outputs, twin
from contract.random_graphs import example, network, random_cut, recipes

# JAX compiles a program for each new shape.
MANY, FEW = {"torch": (60, 12), "tensorflow": (30, 8), "jax": (10, 3)}[os.environ["KERAS_BACKEND"]]


@settings(max_examples=MANY)
@given(recipes(), st.integers(0, 2**16))
def test_a_random_cut_of_a_random_model_is_exact(recipe, seed):
    model = network(recipe)
    traced = sec.trace(model)
    cut = random_cut(traced, seed)
    small = sec.apply(model, cut, example(), network=traced)
    for mine, theirs in zip(
        outputs(small, [example()]), outputs(twin(model, cut), [example()]), strict=True
    ):
        assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert small.count_params() == sum(
        int(np.prod(cut.tensors[t.name].shape_after if t.name in cut.tensors else t.shape))
        for t in traced.tensors.values()
    )
    again, foretold = sec.trace(small).cost(), traced.cost(cut)
    assert (again.params, again.macs, again.bytes) == (
        foretold.params,
        foretold.macs,
        foretold.bytes,
    )


@settings(max_examples=FEW)
@given(recipes(), st.integers(0, 2**16))
def test_a_proof_without_the_rules_holds(recipe, seed):
    model = network(recipe)
    cut = random_cut(sec.trace(model), seed)
    proof = sec.report_of(sec.apply(model, cut, example(), proof="independent")).proof
    assert proof.independent.channels == cut.removed_channels


@settings(max_examples=FEW)
@given(recipes(), st.integers(0, 2**16), st.integers(0, 2**16))
def test_two_cuts_in_turn_are_one_cut(recipe, first_seed, second_seed):
    model = network(recipe)
    first = random_cut(sec.trace(model), first_seed)
    between = sec.apply(model, first, proof=False)
    second = random_cut(sec.trace(between), second_seed)
    after = sec.apply(between, second, proof=False)
    both = sec.Cut.from_json(first.then(second).to_json())
    assert both == sec.report_of(after).cut
    at_once = sec.apply(model, both, proof=False)
    for mine, theirs in zip(at_once.get_weights(), after.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)


@settings(max_examples=FEW)
@given(recipes(), st.integers(0, 2**16))
def test_the_configuration_is_complete(recipe, seed):
    model = network(recipe)
    small = sec.apply(model, random_cut(sec.trace(model), seed), proof=False)
    again = type(small).from_config(small.get_config())
    assert [w.shape for w in again.weights] == [w.shape for w in small.weights]
    again.set_weights(small.get_weights())
    assert keras.tree.map_structure(lambda t: t.shape, again.outputs) == (
        keras.tree.map_structure(lambda t: t.shape, small.outputs)
    )
