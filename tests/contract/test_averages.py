"""Moving averages of weights: their values, and that a study with them resumes exactly."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec
from secateurs import keras as on_keras
from secateurs import pytorch as on_pytorch
from secateurs.calibration.batches import as_array
from secateurs.errors import ModelError
from secateurs.study.directory import Study

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(24, 5)).astype("float32")
LABELS = np.arange(24) % 3
DATA = IMAGES, LABELS
DECAY = 0.7


def torch_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def keras_model():
    keras.utils.set_random_seed(0)
    layers = L.Dense(8, name="a"), L.BatchNormalization(name="b"), L.Dense(3, name="c")
    return keras.Sequential([keras.Input((5,)), *layers])


def training(**options):
    return sec.Training(**{"batch_size": 12, "learning_rate": 0.05, "ema": DECAY} | options)


def learner(side, **options):
    backend, make = {"pytorch": (on_pytorch, torch_model), "keras": (on_keras, keras_model)}[side]
    return backend.Learner(make(), DATA, DATA, None, training(**options))


def arrays(tensors):
    return {name: np.array(as_array(value)) for name, value in tensors.items()}


on_both = pytest.mark.parametrize("side", ["pytorch", "keras"])


@on_both
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_average_is_of_all_steps_since_the_last_cut(side, optimizer):
    one, plain = learner(side, optimizer=optimizer), learner(side, optimizer=optimizer, ema=0.0)
    steps = itertools.count()
    check_average(one, plain, steps, begun=None)
    for each in (one, plain):
        network = each.trace()
        each.apply(network.cut({network.groups[0].name: [0, 3]}), network)
    # PyTorch's average starts with the weights after the first step, Keras's with those before it.
    check_average(one, plain, steps, begun=None if side == "pytorch" else averaged_values(one))


def check_average(one, plain, steps, begun):
    """Four steps with the average written out, against a learner without averaging."""
    expected = begun
    for number in itertools.islice(steps, 4):
        for each in (one, plain):
            each.train(number, [0.05], lambda: None)
        values = averaged_values(one)
        for name, value in averaged_values(plain).items():  # training itself is unaffected
            np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-6)
        expected = expected or values
        expected = {n: DECAY * expected[n] + (1 - DECAY) * v for n, v in values.items()}
    average = arrays(one.snapshot().average)
    assert max(np.abs(average[name] - values[name]).max() for name in values) > 1e-3
    for name, value in expected.items():
        np.testing.assert_allclose(average[name], value, rtol=1e-4, atol=1e-5)


def averaged_values(one):
    """The averaged values: in Keras, moments of batch normalisation are not among them."""
    return {
        name: value
        for name, value in arrays(one.snapshot().tensors).items()
        if value.dtype.kind == "f" and "moving" not in name
    }


@on_both
def test_the_average_is_evaluated_and_the_weights_stay(side):
    one = learner(side)
    one.train(0, [0.1] * 6, lambda: None)
    before, plain = one.snapshot(), one.evaluate("validation", lambda: None)
    average = one.evaluate("validation", lambda: None, True)
    assert average.loss != plain.loss
    assert one.evaluate("validation", lambda: None) == plain
    for name, value in arrays(one.snapshot().tensors).items():
        np.testing.assert_array_equal(value, as_array(before.tensors[name]))
    # It equals the model's result with these values.
    one.restore(before.take_average())
    assert one.evaluate("validation", lambda: None) == average


@on_both
def test_a_snapshot_brings_the_average_back(side):
    one, other = learner(side), learner(side)
    one.train(0, [0.1] * 3, lambda: None)
    other.restore(one.snapshot())
    for each in (one, other):
        each.train(3, [0.1] * 3, lambda: None)
    mine, theirs = one.snapshot(), other.snapshot()
    for kind in ("tensors", "average"):
        for name, value in arrays(getattr(mine, kind)).items():
            np.testing.assert_array_equal(value, as_array(getattr(theirs, kind)[name]))


class Interrupted(sec.Watcher):
    """Stops a study at a given number of records."""

    def __init__(self, records):
        self.left = records

    def recorded(self, record):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@on_both
def test_a_study_that_averages_resumes_to_the_last_bit(side, tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: None)
    model = torch_model() if side == "pytorch" else keras_model()

    def study(name, watcher=None):
        return sec.iterate(
            model,
            DATA,
            DATA,
            directory=tmp_path / name,
            step=0.3,
            training=training(batches=8, fine_tune_batches=8, evaluate_every=2),
            stop=sec.Stop(rounds=2, tolerance=None),
            measure_speed=False,
            watcher=watcher,
        )

    whole = study("whole")
    for record in range(2, len(whole.history), 1 if side == "pytorch" else 4):
        with pytest.raises(KeyboardInterrupt):
            study("part", Interrupted(record))
    resumed = study("part")
    if keras.backend.backend() == "torch":  # elsewhere the average is nowhere better, by little
        assert {record["averaged"] for record in whole.history.of("train")} == {False, True}

    def without_times(history):
        return [{k: v for k, v in one.items() if k != "seconds"} for one in history]

    assert without_times(resumed.history) == without_times(whole.history)
    for mine, theirs in zip(values_of(resumed.model), values_of(whole.model), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def values_of(model):
    tensors = model.get_weights() if isinstance(model, keras.Model) else model.state_dict().values()
    return [as_array(tensor) for tensor in tensors]


def test_a_compiled_optimizer_averages_by_itself_or_not_at_all():
    model = keras_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ModelError, match="expected ema=0 where"):
        on_keras.Learner(model, DATA, DATA, None, sec.Training(optimizer="compiled", ema=0.9))
