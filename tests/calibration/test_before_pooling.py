import numpy as np

from secateurs.calibration.before_pooling import Effect, Origin, Origins, activations_read
from support.networks_by_hand import two_layers


def follow(*operations):
    """Origins of the last result; an operation is (effect, operands, results)."""
    origins = Origins()
    for step, (effect, operands, results) in enumerate(operations):
        origins.follow(step, effect, operands, results)
    return origins.of(operations[-1][2][-1])


def test_values_that_were_never_pooled_are_read_as_they_are():
    assert follow((Effect.ACTS, ["x"], ["a"]), (Effect.MOVES, ["a"], ["b"])) == ()


def test_a_pool_is_followed_back_through_what_moves_its_values():
    found = follow(
        (Effect.ACTS, ["x"], ["a"]),
        (Effect.POOLS, ["a"], ["p"]),
        (Effect.POOLS, ["p"], ["q"]),  # a pool of a pool is of the first one's operand
        (Effect.MOVES, ["q"], ["m"]),
    )
    assert found == (Origin(1, 0),)


def test_branches_that_are_joined_have_an_origin_each():
    pooled = (Effect.POOLS, ["a"], ["p"])
    assert follow(pooled, (Effect.JOINS, ["p", "b"], ["j"])) == (Origin(0, 0), Origin(1, 1))
    assert follow((Effect.ACTS, ["a"], ["p"]), (Effect.JOINS, ["p", "b"], ["j"])) == ()


def test_a_sum_was_pooled_where_all_that_is_added_was():
    one, other = (Effect.POOLS, ["a"], ["p"]), (Effect.POOLS, ["b"], ["q"])
    assert follow(one, other, (Effect.ADDS, ["p", "q"], ["s"])) == (Origin(0, 0), Origin(1, 0))
    assert follow(one, (Effect.ADDS, ["p", "b"], ["s"])) == ()
    assert follow(one, (Effect.ADDS, ["p", None], ["s"])) == (Origin(0, 0),)  # a constant
    assert follow(one, (Effect.CHOOSES, ["p", None], ["s"])) == ()  # max(x, 0) is an activation


def test_a_gate_scales_what_was_pooled():
    pooled = (Effect.POOLS, ["a"], ["p"])
    assert follow(pooled, (Effect.SCALES, ["p", "gate"], ["s"])) == (Origin(0, 0),)
    assert follow(pooled, (Effect.ACTS, ["p"], ["s"])) == ()


def test_a_result_that_is_its_operand_keeps_its_own_origin():
    origins = Origins()
    origins.follow(0, Effect.POOLS, ["a"], ["p"])
    origins.follow(1, Effect.ACTS, ["p"], ["p"])
    assert origins.of("p") == (Origin(0, 0),)


def test_activations_are_the_channels_that_are_read():
    network = two_layers()
    units = network.tensors["first.bias"].axes[0]
    other = network.tensors["first.weight"].axes[1]  # the input's: frozen
    (found,) = activations_read(
        network.solution, units[[1, 3]], [(Origin(0, 0), {0: other, 1: units})]
    )
    assert (found.origin, found.axis, found.index.tolist()) == (Origin(0, 0), 1, [1, 3])
    assert np.array_equal(found.units, units[[1, 3]])
    assert activations_read(network.solution, units, [(Origin(0, 0), {0: units[:2]})]) == ()
    halves = [(Origin(0, 0), {1: units[:2]}), (Origin(1, 0), {1: units[2:]})]
    assert [a.index.tolist() for a in activations_read(network.solution, units, halves)] == [
        [0, 1],
        [0, 1],
    ]
