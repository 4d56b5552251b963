import keras
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras import Place, rule
from secateurs.keras.tracing.rules.registry import RULES


def model(*layers, shape=(8, 8, 3)):
    return noisy(keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(2)]))


def why_frozen(network, layer):
    return [reason for f in network.frozen if layer in f.members for reason in f.reasons]


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
    assert "odd (Strange): no rule for Strange, and its code cannot run on symbolic" in reason
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
