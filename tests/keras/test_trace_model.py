"""What a trace finds, and its messages about code that it cannot follow."""

import os

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy
from secateurs.channels.network import Role


def model(*layers, shape=(8, 8, 3)):
    return noisy(keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(2)]))


def why_frozen(network, layer):
    return [reason for f in network.frozen if layer in f.members for reason in f.reasons]


def test_a_flatten_makes_each_channel_many_inputs():
    network = sec.trace(model(L.Conv2D(4, 3, name="conv")))
    (group,) = network.groups
    head = group.members[-1]
    assert (head.role, head.each) == (Role.INPUT, 36)
    assert network.positions(group, head)[1].tolist() == list(range(1, 144, 4))


def test_a_flatten_of_channels_first_moves_them_last():
    conv = L.Conv2D(4, 3, data_format="channels_first", name="conv")
    flatten = L.Flatten(data_format="channels_first")
    network = sec.trace(keras.Sequential([keras.Input((3, 8, 8)), conv, flatten, L.Dense(2)]))
    (group,) = network.groups
    assert network.positions(group, group.members[-1])[1].tolist() == list(range(1, 144, 4))


def test_roles_are_those_of_the_layouts_of_keras():
    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.BatchNormalization(name="bn")))
    (group,) = network.groups
    roles = {(m.tensor, m.axis): m.role for m in group.members}
    assert roles["a.kernel", 3] is Role.FILTER
    assert roles["bn.gamma", 0] is Role.SCALE
    assert roles["bn.moving_variance", 0] is Role.VARIANCE


def test_a_separable_convolution_is_named_for_its_second_step():
    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.SeparableConv2D(6, 3, name="s")))
    cut = network.cut_of_layers({"s": [0, 5]})
    assert cut.tensors["s.pointwise_kernel"].shape_after == (1, 1, 4, 4)
    assert "s.depthwise_kernel" not in cut.tensors


def test_gates_of_an_lstm_lose_the_same_units():
    network = sec.trace(keras.Sequential([keras.Input((4, 3)), L.LSTM(5, name="l"), L.Dense(2)]))
    cut = network.cut({"l/5x4": [1, 2]})
    assert cut.tensors["l.kernel"].removed == {1: (1, 2, 6, 7, 11, 12, 16, 17)}
    assert cut.tensors["l.recurrent_kernel"].removed == {
        0: (1, 2),
        1: (1, 2, 6, 7, 11, 12, 16, 17),
    }


def test_a_lambda_is_traced_or_frozen_with_the_remedy():
    followed = model(L.Conv2D(4, 3, name="a"), L.Lambda(lambda x: 2 * x, name="double"))
    small = sec.delete_channels(followed, {"a": [1]})
    assert sec.report_of(small).proof.holds

    def double(x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("tensors with data only")
        return 2 * x

    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.Lambda(double, name="double")))
    assert not network.groups
    assert "double (Lambda): no rule for Lambda" in why_frozen(network, "a")[0]
    assert "keras.ops" in why_frozen(network, "a")[0]
    with pytest.raises(sec.ModelError, match="Lambda"):
        sec.plan(network, sec.score(network), amount=0.5)


def test_operations_that_mix_channels_are_listed():
    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.LayerNormalization(name="ln")))
    (group,) = network.groups
    assert group.inexact == ("LayerNormalization over channels in ln",)


def test_a_weight_that_no_call_reaches_is_listed():
    shared = L.Dense(3, name="d")
    i = keras.Input((4,))
    network = sec.trace(keras.Model(i, shared(i)))
    assert why_frozen(network, "d") == ["it is the network's output"]


def test_open_shapes_need_example_inputs():
    i = keras.Input((None, None, 3), name="image")
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="a")(i))
    built = keras.Model(i, L.Dense(2)(x), name="open")
    with pytest.raises(sec.ModelError, match=r"open: expected example_inputs.*'image'.*trace\("):
        sec.trace(built)
    x = np.zeros((1, 7, 7, 3), "float32")
    network = sec.trace(built, x)
    assert network.macs() == 25 * 27 * 4 + 4 * 2
    assert sec.report_of(sec.apply(built, network.cut({"a": [0]}), x, network=network)).proof.holds


def test_macs_follow_the_batch():
    built = model(L.Conv2D(4, 3, name="a"))
    x = np.zeros((5, 8, 8, 3), "float32")
    assert sec.trace(built, x).macs() == 5 * sec.trace(built).macs()


def test_a_layer_shared_by_two_paths_is_one():
    shared = L.Dense(6, name="shared")
    i = keras.Input((6,))
    a, b = L.Dense(6, name="a")(i), L.Dense(6, name="b")(i)
    network = sec.trace(keras.Model(i, L.Dense(2)(L.Concatenate()([shared(a), shared(b)]))))
    assert {g.name: [m.each for m in g.members] for g in network.groups} == {
        "a": [1, 1, 1, 1, 1],
        "shared": [1, 1, 2],
    }


def test_tracing_leaves_no_trace():
    built = model(L.Conv2D(4, 3, name="a"), L.Dropout(0.5))
    config, weights = built.get_config(), built.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in built.layers]
    sec.trace(built)
    assert built.get_config() == config
    assert [len(layer._inbound_nodes) for layer in built.layers] == nodes
    assert all(np.array_equal(a, b) for a, b in zip(built.get_weights(), weights, strict=True))


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "torch", reason="PyTorch counts for itself")
def test_macs_are_those_that_pytorch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    i = keras.Input((10, 10, 3))
    x = L.SeparableConv2D(6, 3, depth_multiplier=2)(L.Conv2D(8, 3, strides=2)(i))
    x = L.Conv2D(8, 1, groups=2)(L.Conv2DTranspose(4, 2)(x))
    built = keras.Model(i, L.Dense(3)(L.Flatten()(x)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(np.zeros((1, 10, 10, 3), "float32"))
    assert counter.get_total_flops() == 2 * sec.trace(built).macs()
