"""Code run on tensors without data: its recorded calls, or why they cannot be recorded."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

from secateurs.keras.tracing.symbolic import Calls, calls_in

SPEC = keras.KerasTensor((2, 3))


def replay(seen, *arrays):
    def call(node, arguments, keywords):
        return node.operation(*arguments, **keywords)

    return np.asarray(ops.convert_to_numpy(seen.run([*map(ops.convert_to_tensor, arrays)], call)))


def test_replayed_calls_give_the_outputs_of_the_code():
    def code(x, scale):
        return ops.exp(x * scale) + x

    seen = calls_in(code, [SPEC, 2.0], {})
    assert isinstance(seen, Calls)
    assert len(seen.nodes) == 3
    x = np.array([[0.0, 1.0, -1.0]], "float32")
    assert np.allclose(replay(seen, x), np.exp(2 * x) + x, atol=1e-6)


def test_placeholders_of_weights_are_replaced_by_the_weights():
    layer = L.Dense(4)
    layer.build((None, 3))
    seen = calls_in(lambda x: ops.matmul(x, layer.kernel), [SPEC], {}, [layer])
    assert [variable for _, variable in seen.weights if variable is layer.kernel] == [layer.kernel]
    x = np.ones((2, 3), "float32")
    assert np.allclose(replay(seen, x), x @ ops.convert_to_numpy(layer.kernel), atol=1e-6)


def test_code_that_reads_values_is_refused_with_its_error():
    found = calls_in(lambda x: x if float(x) > 0 else -x, [SPEC], {})
    assert isinstance(found, str)
    assert "cannot run on symbolic tensors" in found


def test_layers_get_their_own_class_back():
    layer = L.Dense(4)
    layer.build((None, 3))
    kind, known = type(layer), dict(vars(layer))
    calls_in(layer.call, [SPEC], {}, [layer], [layer])
    assert type(layer) is kind
    assert vars(layer).keys() == known.keys()


def test_a_refusal_names_the_cause_and_its_line():
    class Inner(keras.layers.Layer):
        def call(self, x):
            raise ValueError("no data here")

    inner = Inner()
    found = calls_in(inner, [keras.KerasTensor((2, 3))], {})
    assert isinstance(found, str)
    assert "ValueError: no data here" in found
    assert "test_symbolic.py:" in found
    assert 'raise ValueError("no data here")' in found
