import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import CheckpointError
from secateurs.keras.reading_back import check_comes_back


@keras.saving.register_keras_serializable("test_reading_back")
class Shift(L.Layer):
    """Adds a number that its configuration contains or lacks."""

    def __init__(self, by=0.0, settings=True, **options):
        super().__init__(**options)
        self.by, self.settings = by, settings

    def call(self, x):
        return x + self.by

    def get_config(self):
        return {**super().get_config(), **({"by": self.by} if self.settings else {})}


def write_layers(tmp_path, settings):
    layers = [keras.Input((3,)), L.Dense(2), Shift(2.0, settings, name="shift")]
    model = keras.Sequential(layers)
    path = tmp_path / "model.keras"
    model.save(path)
    return model, path


def test_a_complete_file_is_accepted(tmp_path):
    model, path = write_layers(tmp_path, settings=True)
    check_comes_back(model, path, path)
    again = keras.saving.load_model(path)
    x = np.ones((2, 3), "float32")
    assert np.array_equal(*(keras.ops.convert_to_numpy(one(x)) for one in (model, again)))


def test_a_file_that_would_give_other_outputs_is_refused(tmp_path):
    model, path = write_layers(tmp_path, settings=False)
    with pytest.raises(CheckpointError, match=r"shift\.by"):
        check_comes_back(model, path, path)
