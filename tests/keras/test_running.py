import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import MeasurementError
from secateurs.keras.running import batch_size, runner
from secateurs.measurement.conditions import Conditions

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def counting():
    """A model, and the list of batch sizes that it was called on."""
    seen = []

    class Counter(L.Layer):
        def call(self, x):
            seen.append(tuple(x.shape))
            return x

    model = keras.Sequential([keras.Input((4,)), Counter(), L.Dense(2)])
    seen.clear()
    return model, seen


@pytest.mark.parametrize(("batch", "size"), [(None, 3), (7, 7), (2, 2)])
def test_a_call_runs_the_requested_batch_size(batch, size):
    model, seen = counting()
    conditions = Conditions(batch=batch)
    assert batch_size(X, conditions) == size
    run = runner(model, X, conditions)
    run()
    assert seen[-1] == (size, 4)


def test_a_number_of_every_output_is_read_back():
    model, _ = counting()
    (found,) = runner(model, X, Conditions())()
    assert np.allclose(found, keras.ops.convert_to_numpy(model(X)).ravel()[:1], atol=1e-6)


def test_unsupported_conditions_are_refused():
    model, _ = counting()
    with pytest.raises(MeasurementError, match="dtype float32"):
        runner(model, X, Conditions(dtype="float16"))
