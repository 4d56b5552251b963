import keras
import numpy as np

from secateurs.channels.cut import TensorCut
from secateurs.keras.surgery.slicing import slice_tensor

VALUES = np.arange(24.0, dtype="float32").reshape(2, 3, 4)


def test_each_axis_loses_its_removed_indices():
    cut = TensorCut((2, 3, 4), {0: (1,), 2: (0, 3)})
    found = slice_tensor(keras.ops.convert_to_tensor(VALUES), cut)
    assert np.array_equal(found, VALUES[:1][:, :, [1, 2]])


def test_a_tensor_that_is_not_cut_is_copied():
    tensor = keras.ops.convert_to_tensor(VALUES)
    found = slice_tensor(tensor, None)
    found += 1
    assert np.array_equal(keras.ops.convert_to_numpy(tensor), VALUES)
