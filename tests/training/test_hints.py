import numpy as np
import pytest

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import NUMPY
from secateurs.training.hints import (
    EXAMPLES,
    Hint,
    candidates,
    choose_hints,
    find_hints,
    hint_distances,
    spread,
)

RANDOM = np.random.default_rng(0)


def read(dense, kept):
    """(what a small model's layer reads, what the dense one's does): some of its channels."""
    return dense[..., :kept] * 0.9 + 0.1, dense


def test_positions_are_sampled_evenly_and_few():
    values = RANDOM.normal(size=(2, 14, 14, 3))
    rows = spread(values)
    assert rows.shape == (2, 49, 3)  # every fourth of 196
    assert np.array_equal(rows[:, 3], values[:, 0, 12])
    assert np.array_equal(rows[:, 4], values[:, 1, 2])
    assert spread(values[:, 0, 0]).shape == (2, 1, 3)


def test_the_matrix_gives_what_the_small_model_still_knows():
    # Two channels stay, a third is their sum, a fourth has nothing to do with them.
    first = RANDOM.normal(size=(400, 1, 2))
    dense = np.concatenate(
        [first, first.sum(axis=2, keepdims=True), RANDOM.normal(size=(400, 1, 1))], axis=2
    )
    (hint,) = choose_hints({"head": first}, {"head": dense}, 400)
    given = first @ hint.weight + hint.bias
    variance = ((dense - dense.mean(axis=(0, 1))) ** 2).sum(axis=2).mean()
    assert hint.scale == pytest.approx(variance)
    apart = hint_distances(NUMPY, [hint], [dense], [given])
    # What remains is the fourth channel's own variance, of 1 + 1 + 2 + 1.
    assert apart.shape == (400,)
    assert apart.mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(given - dense)[..., :3].max() < 0.1


def test_of_each_third_the_layer_that_keeps_most_and_the_last_are_hints():
    dense = {f"{number}": RANDOM.normal(size=(40, 2, 8)) for number in range(8)}
    kept = dict(zip(dense, (8, 7, 5, 5, 6, 6, 5, 5), strict=True))
    small = {name: read(dense[name], kept[name])[0] for name in dense}
    small["0"] = dense["0"]  # reads the images, as in the dense model: nothing to learn there
    found = choose_hints(small, dense, 40)
    # Of 1 and 2, of 3 and 4, of 5 and 6; then the last.
    assert [hint.layer for hint in found] == ["1", "4", "5", "7"]


def test_uninformative_layers_are_not_hints():
    dense = RANDOM.normal(size=(100, 4, 5))
    other = RANDOM.normal(size=(100, 4, 3))
    assert choose_hints({"a": other}, {"a": dense}, 100) == ()
    assert choose_hints({"a": other}, {"b": dense}, 100) == ()
    small = read(dense, 4)[0]
    assert len(choose_hints({"a": small}, {"a": dense}, 100)) == 1
    assert choose_hints({"a": small}, {"a": dense}, 50) == ()  # rows that are no images
    assert choose_hints({"a": np.full_like(small, np.nan)}, {"a": dense}, 100) == ()


def test_distances_add_up_and_are_relative():
    hints = [Hint("a", np.eye(2), np.zeros(2), 4.0), Hint("b", np.eye(2), np.zeros(2), 2.0)]
    nothing = np.zeros((3, 2, 2))
    ones = np.ones((3, 2, 2))
    found = hint_distances(NUMPY, hints, [nothing, nothing], [ones, 2 * ones])
    assert found == pytest.approx(np.full(3, 2 / 4 + 8 / 2))


def test_of_many_layers_some_are_candidates():
    names = [str(number) for number in range(100)]
    some = candidates(names)
    assert len(some) == 32
    assert some[0] == "0"
    assert some[-1] == "99"
    assert candidates(names[:3]) == names[:3]
    assert candidates([]) == []


def test_hints_do_not_depend_on_the_size_of_a_pass():
    passes = []

    def listen(model, images, layers):
        passes.append(len(images))
        return [], {layer: spread(images)[..., :model] for layer in layers}

    texts = CalibrationBatch(RANDOM.normal(size=(100, 20, 6)), None)
    at_once = find_hints(listen, 5, 6, texts, ["a", "b"])
    assert passes == [EXAMPLES] * 2
    passes.clear()
    in_parts = find_hints(listen, 5, 6, texts, ["a", "b"], 24)
    assert passes == [24, 24, EXAMPLES - 48] * 2
    assert [hint.layer for hint in in_parts] == [hint.layer for hint in at_once] == ["a", "b"]
    for one, other in zip(in_parts, at_once, strict=True):
        assert np.array_equal(one.weight, other.weight)


def test_layers_that_some_passes_leave_out_give_no_hints():
    texts = CalibrationBatch(RANDOM.normal(size=(40, 4, 6)), None)

    def listen(model, images, layers):
        inputs = dict.fromkeys(layers, images[..., :model])
        if (images == texts.images[0]).all(axis=(1, 2)).any():  # an expert for the first part alone
            inputs["expert"] = inputs["a"]
            inputs["b"] = inputs["b"][:, :2]
        return [], inputs

    found = find_hints(listen, 5, 6, texts, ["a", "b"], 20)
    assert [hint.layer for hint in found] == ["a"]
