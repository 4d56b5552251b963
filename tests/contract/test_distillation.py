"""Distillation gives the same result in both frameworks, and never a worse model."""

import numpy as np
import pytest

import secateurs as sec
from contract.sides import SIDES
from secateurs.backends import backend_of
from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError, SecateursError
from secateurs.training import distillation, rate_trials
from secateurs.training.feed import Augmentation

on_both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def cut(side, architecture):
    dense = side.build(architecture)
    network = sec.trace(dense, side.inputs(architecture))
    removed = {g.name: range(0, len(g) - 1, 2) for g in network.groups if len(g) > 1}
    return dense, sec.apply(dense, network.cut(removed), side.inputs(architecture))


def pictures(side, architecture, seed, count=32):
    shape = (5,) if architecture == "gated" else (3, 6, 6)
    images = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    if side.name == "keras" and images.ndim == 4:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return [CalibrationBatch(images, None)]


def distil(side, architecture, **options):
    dense, small = cut(side, architecture)
    states = side.state(dense), side.state(small)
    options = {"steps": 20, "batch_size": 16, "learning_rate": 0.01} | options
    found = backend_of(small).distil(
        small,
        dense,
        pictures(side, architecture, 0),
        held_out=pictures(side, architecture, 1),
        **options,
    )
    for before, model in zip(states, (dense, small), strict=True):
        assert all(map(np.array_equal, before, side.state(model)))
    return found, dense, small


@on_both
@pytest.mark.parametrize("architecture", ["plain", "residual", "gated"])
def test_the_small_model_comes_nearer(side, architecture):
    found, _, small = distil(side, architecture)
    assert found.kept
    assert found.model is not small
    assert found.steps == 20
    assert found.after < found.before
    assert side.params(found.model) == side.params(small)
    assert sec.report_of(found.model).cut == sec.report_of(small).cut


@pytest.mark.parametrize("architecture", ["plain", "residual", "gated"])
@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True, shift=1, mix=0.5)])
def test_both_frameworks_learn_the_same(architecture, augmentation):
    if augmentation and architecture == "gated":
        augmentation = None
    found = [distil(side, architecture, augmentation=augmentation) for side in SIDES.values()]
    mine, theirs = (each[0] for each in found)
    assert mine.before == pytest.approx(theirs.before, rel=1e-4)
    assert mine.after == pytest.approx(theirs.after, rel=1e-2)
    outputs = [
        side.outputs(each[0].model, architecture)
        for side, each in zip(SIDES.values(), found, strict=True)
    ]
    assert outputs[0] == pytest.approx(outputs[1], abs=float(0.01 * np.abs(outputs[0]).max()))


@on_both
def test_rates_found_by_trial_get_nearer_than_the_usual_ones(side, monkeypatch):
    found, _, _ = distil(side, "plain", steps=90, learning_rate=None)
    monkeypatch.setattr(rate_trials, "MOST_STEPS", 0)
    usual, _, _ = distil(side, "plain", steps=90, learning_rate=None)
    assert found.kept
    assert found.after < 0.3 * usual.after


@on_both
def test_images_that_need_much_memory_come_in_small_batches(side, monkeypatch):
    sizes = []

    def leave_unchanged(images, random):
        return sizes.append(len(images)) or images

    def sizes_of_steps(**options):
        sizes.clear()
        distil(side, "plain", steps=3, augmentation=leave_unchanged, **options)
        return sizes[-3:]

    assert sizes_of_steps(batch_size=None) == [32] * 3  # all there are
    monkeypatch.setattr(distillation, "MOST_BYTES", 100)
    assert sizes_of_steps(batch_size=None) == [1] * 3
    assert sizes_of_steps(batch_size=7) == [7] * 3


@on_both
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "embedding"])
def test_other_outputs_than_classes(side, kind):
    found, _, _ = distil(side, "plain", outputs=kind)
    assert found.after < found.before


@on_both
def test_statistics_of_batch_norm_stay_as_they_are(side):
    found, _, small = distil(side, "residual")
    before, after = statistics(side, small), statistics(side, found.model)
    assert len(before) == 4
    assert all(map(np.array_equal, before, after))


def statistics(side, model):
    if side.name == "keras":
        kept = [w for w in model.weights if w.name in ("moving_mean", "moving_variance")]
        return [np.asarray(weight) for weight in kept]
    return [b.numpy().copy() for name, b in model.named_buffers() if "running" in name]


@on_both
def test_what_the_user_froze_stays_as_it_is(side):
    dense, small = cut(side, "plain")
    side.freeze(small, "head")
    found = backend_of(small).distil(
        small, dense, pictures(side, "plain", 0), steps=3, held_out=pictures(side, "plain", 1)
    )
    same = [
        np.array_equal(one, two)
        for one, two in zip(side.state(small), side.state(found.model), strict=True)
    ]
    assert found.kept
    assert same == [False] * 6 + [True] * 2
    assert side.is_frozen(found.model, "head")


@on_both
def test_a_harmful_distillation_is_not_kept(side):
    found, _, small = distil(side, "plain", learning_rate=1e3)
    assert found.model is small
    assert not found.kept
    assert found.after > found.before


@on_both
def test_the_same_seed_gives_the_same(side):
    first, second, other = (
        side.state(distil(side, "plain", seed=seed, steps=3)[0].model) for seed in (0, 0, 1)
    )
    assert all(map(np.array_equal, first, second))
    assert not all(map(np.array_equal, first, other))


@on_both
def test_what_cannot_be_done_is_refused(side):
    with pytest.raises(SecateursError, match="steps=0"):
        distil(side, "plain", steps=0)
    with pytest.raises(DataError, match="at least 1; received 0"):
        distil(side, "plain", batch_size=0)
    with pytest.raises(DataError, match="Augmentation"):
        distil(side, "gated", augmentation=Augmentation(flip=True))
