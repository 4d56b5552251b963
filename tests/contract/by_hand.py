"""An independent route to the masked twin: Keras's own copy of a model, with zeroed weights."""

import keras
import numpy as np

READS = {
    # class -> the axes along which its weights read channels, by the weight's name
    "Conv1D": {"kernel": -2},
    "Conv2D": {"kernel": -2},
    "Conv2DTranspose": {"kernel": -1},
    "Dense": {"kernel": 0},
    "SeparableConv2D": {"pointwise_kernel": -2},
    "LSTM": {"kernel": 0, "recurrent_kernel": 0},
    "GRU": {"kernel": 0, "recurrent_kernel": 0},
}


def twin(model, cut):
    """The dense model with consumers that ignore the removed channels."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        for variable in layer.weights:
            axis = READS.get(type(layer).__name__, {}).get(variable.name)
            known = cut.tensors.get(f"{layer.name}.{variable.name}")
            if axis is not None and known is not None:
                axis %= len(variable.shape)
                values = np.array(keras.ops.convert_to_numpy(variable.value))
                np.moveaxis(values, axis, 0)[list(known.removed.get(axis, ()))] = 0
                variable.assign(values)
    return copy


def outputs(model, inputs):
    """The model's outputs, as arrays."""
    given = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(given)]
