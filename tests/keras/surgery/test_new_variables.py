"""New variables are what Keras makes, of another shape and with memory of their own."""

import keras
import numpy as np
import pytest

from secateurs.keras.surgery.new_variables import new_variable_like

VALUE = np.arange(6, dtype="float32").reshape(2, 3)
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's variables"
)


def make(value=VALUE, trainable=True):
    old = keras.Variable(np.zeros((4, 5), "float32"), trainable=trainable, name="kernel")
    return old, new_variable_like(
        old, keras.ops.convert_to_tensor(value), value.shape, "model/layer"
    )


def test_it_is_what_keras_makes():
    old, new = make()
    expected = keras.Variable(VALUE, name="kernel")
    assert (new.shape, new.name, new.path) == ((2, 3), "kernel", "model/layer/kernel")
    assert vars(new).keys() == vars(expected).keys()
    assert type(new.value) is type(expected.value)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(new.value), VALUE)
    new.assign(VALUE + 1)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(new.value), VALUE + 1)
    assert old.shape == (4, 5)
    assert not np.any(keras.ops.convert_to_numpy(old.value))


@on_tensorflow
def test_tensorflow_sees_an_ordinary_variable():
    import tensorflow as tf

    _, new = make()
    _, other = make(trainable=False)
    expected = keras.Variable(VALUE, name="kernel").value
    assert vars(new.value).keys() == vars(expected).keys()
    assert (new.value.name, new.value.shape) == (expected.name, expected.shape)
    assert (new.value.trainable, other.value.trainable) == (True, False)
    assert new.value.ref() != other.value.ref()
    with pytest.raises(ValueError, match="Shape mismatch"):
        new.value.assign(np.zeros((2, 4)))

    @tf.function
    def double():
        seen.append(tf.raw_ops.ReadVariableOp(resource=new.value.handle, dtype=tf.float32).shape)
        return 2 * new.value

    seen = []
    np.testing.assert_array_equal(double(), 2 * VALUE)
    assert seen == [(2, 3)]


@on_tensorflow
def test_memory_is_asked_for_by_one_operation_for_all_shapes(monkeypatch):
    """TensorFlow compiles an operation anew for each of its attributes."""
    import tensorflow as tf

    asked = []
    allocate = tf.raw_ops.VarHandleOp
    monkeypatch.setattr(
        tf.raw_ops, "VarHandleOp", lambda **options: (asked.append(options), allocate(**options))[1]
    )
    made = [make(value)[1] for value in (VALUE, VALUE[:1], VALUE[0])]
    assert [variable.value.shape for variable in made] == [(2, 3), (1, 3), (3,)]
    assert len(asked) == 3
    assert len({str(options) for options in asked}) == 1


@on_tensorflow
def test_scopes_of_names_and_strategies_go_through_tensorflow():
    import tensorflow as tf

    with tf.name_scope("outer"):
        assert make()[1].value.name == "outer/kernel:0"
    with tf.distribute.MirroredStrategy(["cpu:0"]).scope():
        made, expected = make()[1], keras.Variable(VALUE)
        assert type(made.value) is type(expected.value)


@on_tensorflow
def test_each_variable_has_a_note_of_its_shape_of_its_own():
    """TensorFlow's branches write to the notes of the variables that they read."""
    from tensorflow.python.ops.resource_variable_ops import get_eager_safe_handle_data

    def find_note():
        return get_eager_safe_handle_data(make()[1].value.handle)

    first, other = find_note(), find_note()
    assert first == other
    first.shape_and_type[0].shape.dim[0].size = 9
    assert find_note() == other != first
