"""A model's forward pass as a list of steps."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction.program import GraphRef, Pieces, Program, as_numbers
from secateurs.keras.trace_model import source_of

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def build_branches():
    i = keras.Input((6,))
    x = L.Dense(4, "relu", name="a")(i)
    return keras.Model(i, L.Add(name="sum")([x, L.Dense(4, name="b")(L.Dense(7, name="c")(x))]))


def pieces(model):
    operations = source_of(sec.trace(model)).operations
    return Pieces(model, operations, CalibrationBatch(X, None))


def test_steps_are_in_topological_order():
    program = Program.of(build_branches(), [(5, 6)])
    assert [step.part.name for step in program.steps] == ["Dense", "relu", "Dense", "Dense", "Add"]
    for step in program.steps:
        assert all(ref.step < step.number for ref in step.reads)
    assert program.outputs == [GraphRef(4)]
    assert program.largest() == 5 * 7


def test_a_pass_from_the_start_or_from_a_branch_gives_the_models_outputs():
    model = build_branches()
    expected = keras.ops.convert_to_numpy(model(X))
    piece = pieces(model).piece(CalibrationBatch(X, None))
    for _ in range(2):
        step = piece.steps[piece.done]
        piece.do(step)
        piece.forget(step)
    assert piece.values.keys() == {
        GraphRef(-1),
        GraphRef(1),
    }  # the values before the ReLU have been dropped
    branch = piece.branch()
    for one in (branch, piece):
        (found,) = one.play()
        assert np.allclose(as_numbers(found), expected, atol=1e-6)


def test_the_outputs_of_a_step_can_be_replaced():
    piece = pieces(build_branches()).piece(CalibrationBatch(X, None))
    (found,) = piece.play(lambda step, made: [one * 0 for one in made])
    assert not as_numbers(found).any()


def test_peak_bytes_are_those_of_the_widest_step():
    program = Program.of(build_branches(), [(1, 6)])
    # Behind 'c': the ReLU's 4 and its own 7 are alive, or 'c's 7 and 'b's 4 beside the ReLU's.
    assert program.bytes_at_once(len(program.steps)) == (4 + 7 + 4) * 4
