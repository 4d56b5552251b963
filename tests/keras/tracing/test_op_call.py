import keras
from keras import layers as L

from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Value


def values(*shapes):
    return [Value(keras.KerasTensor(shape)) for shape in shapes]


def test_arguments_have_the_names_that_the_layer_declares():
    query, value = values((1, 4, 6), (1, 5, 6))
    call = Call("m", L.MultiHeadAttention(2, 3), [query], {"value": value}, values((1, 4, 6)))
    assert call.by_name["query"] is query
    assert call.by_name["value"] is value
    assert call.inputs == [query, value]
    assert (call.input, call.kind, str(call)) == (
        query,
        "MultiHeadAttention",
        "m (MultiHeadAttention)",
    )


def test_constants_are_operands_without_channels():
    (x,) = values((2, 3))
    table = keras.ops.ones((3, 4))
    call = Call("p", keras.ops.matmul, [x, table], {}, values((2, 4)))
    first, second = call.operands
    assert first is x
    assert second.shape == (3, 4)
    assert not second.axes
    assert "constant" in second.why


def test_a_sublayers_path_is_below_its_layers():
    layer = L.TimeDistributed(L.Dense(2, name="core"))
    layer.build((None, 3, 4))
    call = Call("outer", layer, values((1, 3, 4)), {}, values((1, 3, 2)))
    assert call.path_of(layer.layer) == "outer.core"
