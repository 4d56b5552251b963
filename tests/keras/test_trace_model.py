"""What a trace finds, and what it says of what it cannot follow."""

import os

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from contract.zoo import noisy
from secateurs.channels.network import Role
from secateurs.keras import Place, rule
from secateurs.keras.tracing.rules.registry import RULES


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


def test_heads_key_channels_and_value_channels_are_groups_of_their_own():
    i = keras.Input((5, 6))
    x = L.Dense(8, name="d")(i)
    y = L.MultiHeadAttention(3, 4, value_dim=2, dropout=0.1, name="att")(x, x)
    network = sec.trace(keras.Model(i, L.Dense(2)(L.Add()([x, y]))))
    sizes = sorted(len(group) for group in network.groups)
    assert sizes == [2, 3, 4, 8]
    small = sec.delete_channels(network.source.model, {"att.query": [0]})
    assert small.get_layer("att").num_heads == 2


def test_a_layer_without_a_rule_freezes_what_it_touches():
    @keras.saving.register_keras_serializable("tests")
    class Strange(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise TypeError("tensors with data only")
            return x * self.scale

    built = model(L.Conv2D(4, 3, name="a"), Strange(name="odd"), L.Conv2D(5, 3, name="b"))
    network = sec.trace(built)
    assert [group.name for group in network.groups] == ["b"]
    (reason,) = why_frozen(network, "a")
    assert "odd (Strange): no rule for Strange, and its code takes no tensors without" in reason
    assert "TypeError: tensors with data only" in reason
    assert "@secateurs.keras.rule(Strange)" in reason
    with pytest.raises(sec.CutError, match=r"a: filter 0 cannot be removed: odd \(Strange\)"):
        sec.delete_channels(built, {"a": [0]})


def test_a_rule_of_the_users_says_what_a_layer_does(monkeypatch):
    @keras.saving.register_keras_serializable("tests")
    class Scale(L.Layer):
        def __init__(self, width, **options):
            super().__init__(**options)
            self.width = width
            self.scale = self.add_weight(shape=(width,), name="scale")

        def call(self, x):
            return x * self.scale

        def get_config(self):
            return {**super().get_config(), "width": self.width}

    monkeypatch.setitem(RULES, Scale, None)

    @rule(Scale)
    def scale(tracer, call):
        units = tracer.unify([Place(call.input, -1), Place(tracer.weight(call.layer.scale), 0)])
        tracer.counts(call.path, "width", units)
        tracer.carry(call)

    built = model(L.Conv2D(4, 3, name="a"), Scale(4, name="scale"), L.Conv2D(5, 3, name="b"))
    small = sec.delete_channels(built, {"a": [1]})
    assert small.get_layer("scale").width == 3
    assert sec.report_of(small).proof.holds


def test_a_layer_that_computes_something_else_does_not_inherit_a_rule():
    class Squared(L.Dense):
        def call(self, x):
            return super().call(x) ** ops.mean(x)

    class Renamed(L.Dense):
        pass

    def groups(kind):
        network = sec.trace(model(kind(4, name="s"), L.Dense(3, name="d"), shape=(6,)))
        return [group.name for group in network.groups]

    assert groups(Squared) == ["d"]
    keras.saving.register_keras_serializable("tests")(Squared)
    assert groups(Squared) == ["s", "d"]
    assert groups(Renamed) == ["s", "d"]


def test_a_lambda_is_gone_through_or_freezes_and_says_what_to_write_instead():
    followed = model(L.Conv2D(4, 3, name="a"), L.Lambda(lambda x: 2 * x, name="double"))
    small = sec.delete_channels(followed, {"a": [1]})
    assert sec.report_of(small).proof.holds

    def own(x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("tensors with data only")
        return 2 * x

    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.Lambda(own, name="double")))
    assert not network.groups
    assert "double (Lambda): no rule for Lambda" in why_frozen(network, "a")[0]
    assert "keras.ops" in why_frozen(network, "a")[0]
    with pytest.raises(sec.ModelError, match="Lambda"):
        sec.plan(network, sec.score(network), amount=0.5)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_softmax_over_channels_freezes_them(function):
    network = sec.trace(model(L.Dense(4, activation=function, name="d"), shape=(6,)))
    assert "softmax over it in d (Dense)" in why_frozen(network, "d")[0]


def test_an_activation_of_the_users_that_mixes_channels_freezes_them():
    def mixing(x):
        return x - ops.mean(x, axis=-1, keepdims=True)

    network = sec.trace(model(L.Dense(4, activation=lambda x: x * x, name="d"), shape=(6,)))
    assert [group.name for group in network.groups] == ["d"]
    network = sec.trace(model(L.Dense(4, activation=mixing, name="d"), shape=(6,)))
    assert not network.groups
    assert "mixes them inside another layer" in why_frozen(network, "d")[0]


@pytest.mark.parametrize(
    ("shift", "axis", "stay"),
    [(1, -1, {7}), (-2, -1, {0, 1}), ((3, 1), (1, 2), {7}), (2, 1, set())],
)
def test_what_is_rolled_round_the_end_stays(shift, axis, stay):
    i = keras.Input((5, 6))
    rolled = keras.ops.roll(L.Dense(8, name="a")(i), shift, axis=axis)
    model = noisy(keras.Model(i, L.Dense(2, name="head")(rolled)))
    network = sec.trace(model)
    (group,) = network.groups
    (kernel,) = [m for m in group.members if (m.tensor, m.axis) == ("a.kernel", 1)]
    rows = network.positions(group, kernel)
    assert {int(row[0]) for row in rows} == set(range(8)) - stay
    for channel in range(len(group)):
        small = sec.apply(model, network.cut({"a": [channel]}), network=network)
        assert sec.report_of(small).proof.holds


def test_what_mixes_channels_is_noted():
    network = sec.trace(model(L.Conv2D(4, 3, name="a"), L.LayerNormalization(name="ln")))
    (group,) = network.groups
    assert group.inexact == ("LayerNormalization over channels in ln",)


def test_a_weight_that_no_call_reaches_is_listed():
    shared = L.Dense(3, name="d")
    i = keras.Input((4,))
    network = sec.trace(keras.Model(i, shared(i)))
    assert why_frozen(network, "d") == ["it is the network's output"]


def test_open_shapes_need_an_example():
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
