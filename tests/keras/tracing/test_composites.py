"""Composite layers are traced by running their code, cut, saved, and cut again."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from contract.zoo import noisy
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.tracing.composites import is_registered

registered = keras.saving.register_keras_serializable("tests")

X = np.random.default_rng(0).standard_normal((3, 6, 6, 3)).astype("float32")


@registered
class Block(L.Layer):
    """Named and unnamed parts, direct weights, and sublayers nested two deep."""

    def __init__(self, filters, deeper=None, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv = L.Conv2D(filters, 3, padding="same")
        self.norm = L.BatchNormalization()
        self.rest = [L.Conv2D(filters, 1, activation="relu")]
        self.deeper = deeper

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(self.filters,), name="scale", initializer="ones")
        self.mixed = self.add_weight(shape=(self.filters, 7), name="mixed")

    def call(self, x, training=None):
        x = keras.ops.relu(self.norm(self.conv(x), training=training)) * (1 + self.scale)
        for layer in self.rest:
            x = layer(x)
        x = keras.ops.matmul(x, self.mixed)
        return x if self.deeper is None else self.deeper(x)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def classifier(block):
    i = keras.Input((6, 6, 3))
    x = L.GlobalAveragePooling2D()(block(i))
    return noisy(keras.Model(i, L.Dense(2, name="head")(x), name="classifier"))


def build_block_model():
    return classifier(Block(8, name="block"))


def predict(model):
    return model.predict(X, verbose=0)


def numpys(model, gone):
    """The block's output without some filters, in NumPy, norm and convolutions written out."""
    w = {leaf.name.removeprefix("block."): np.asarray(leaf.array()) for leaf in list_tensors(model)}
    stay = np.setdiff1d(np.arange(8), gone)
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    h = np.einsum("nhwcij,ijco->nhwo", windows, w["conv.kernel"]) + w["conv.bias"]
    h = (h - w["norm.moving_mean"]) / np.sqrt(w["norm.moving_variance"] + 1e-3)
    h = np.maximum(h * w["norm.gamma"] + w["norm.beta"], 0) * (1 + w["scale"])
    h = h[..., stay] @ w["rest.0.kernel"][0, 0, stay] + w["rest.0.bias"]
    h = np.maximum(h, 0) @ w["mixed"]
    return h.mean((1, 2)) @ w["head.kernel"] + w["head.bias"]


def test_calls_in_a_layers_code_are_traced():
    network = sec.trace(build_block_model())
    assert {group.name: len(group) for group in network.groups} == {
        "block.conv": 8,
        "block.rest.0": 8,
        "block": 7,
    }
    (conv,) = (group for group in network.groups if group.name == "block.conv")
    assert sorted({member.tensor for member in conv.members}) == [
        *("block.conv.bias", "block.conv.kernel", "block.norm.beta", "block.norm.gamma"),
        *("block.norm.moving_mean", "block.norm.moving_variance", "block.rest.0.kernel"),
        "block.scale",
    ]


def test_a_cut_model_gives_the_outputs_computed_in_numpy():
    model, gone = build_block_model(), [1, 4, 6]
    small = sec.delete_channels(model, {"block.conv": gone}, X)
    np.testing.assert_allclose(predict(model), numpys(model, []), atol=1e-5)
    np.testing.assert_allclose(predict(small), numpys(model, gone), atol=1e-5)
    block = small.get_layer("block")
    assert isinstance(block, Block)
    assert block.conv.filters == 5
    assert block.scale.shape == (5,)
    assert block.rest[0].kernel.shape == (1, 1, 5, 8)


def test_the_users_model_is_unchanged():
    model = build_block_model()
    block = model.get_layer("block")
    kinds = [type(layer) for layer in (block, block.conv, block.norm, *block.rest)]
    nodes = [len(layer._inbound_nodes) for layer in (block, block.conv, *block.rest)]
    weights = [np.array(w) for w in model.get_weights()]
    sec.delete_channels(model, {"block.conv": [0]}, X)
    assert [type(layer) for layer in (block, block.conv, block.norm, *block.rest)] == kinds
    assert [len(layer._inbound_nodes) for layer in (block, block.conv, *block.rest)] == nodes
    assert isinstance(block.scale, keras.Variable)
    assert all(map(np.array_equal, weights, model.get_weights()))


def test_a_cut_model_trains_is_saved_and_is_cut_again(tmp_path):
    model = build_block_model()
    model.compile("adam", "mse")
    y = np.zeros((3, 2), "float32")
    model.fit(X, y, verbose=0)
    small = sec.delete_channels(model, {"block.conv": [0, 5], "block": [2]}, X)
    before = small.get_layer("block").conv.get_weights()[0].copy()
    small.fit(X, y, verbose=0)
    assert not np.array_equal(before, small.get_layer("block").conv.get_weights()[0])
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(build_block_model(), tmp_path / "small.safetensors")
    np.testing.assert_array_equal(predict(again), predict(small))
    smaller = sec.delete_channels(small, {"block.conv": [0]}, X)
    assert smaller.get_layer("block").conv.kernel.shape == (3, 3, 3, 5)
    assert sec.report_of(smaller).proof.holds
    edited = sec.keras.insert_layer(small, "block", L.Dropout(0.5, name="drop"))
    np.testing.assert_allclose(predict(edited), predict(small), atol=1e-6)


def test_keras_own_format_is_refused_where_it_could_not_be_read_back(tmp_path):
    small = sec.delete_channels(build_block_model(), {"block.conv": [0]}, X)
    with pytest.raises(sec.CheckpointError, match=r"block does not contain.*small.safetensors"):
        sec.save(small, tmp_path / "small.keras")
    assert not list(tmp_path.iterdir())


def test_sizes_written_in_the_code_freeze_channels():
    @registered
    class Folded(L.Layer):
        def build(self, shape):
            self.a, self.b = L.Dense(8), L.Dense(6)
            self.a.build(shape)
            self.b.build((None, 8))

        def call(self, x):
            return self.b(keras.ops.reshape(self.a(x), (-1, 6, 6, 8)))

        def get_config(self):
            return super().get_config()

    network = sec.trace(classifier(Folded(name="folded")))
    assert [group.name for group in network.groups] == ["folded.b"]
    (why,) = (f.reasons for f in network.frozen if "folded.a" in f.members)
    assert any("in the code of Folded.call does not follow" in reason for reason in why)


def test_sizes_that_its_code_takes_from_shapes_follow():
    @registered
    class Unfolded(L.Layer):
        def build(self, shape):
            self.a, self.b = L.Dense(8), L.Dense(6)
            self.a.build(shape)
            self.b.build((None, 8))

        def call(self, x):
            x = self.a(x)
            flat = keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[-1]))
            return keras.ops.reshape(self.b(flat), (-1, *x.shape[1:3], 6))

        def get_config(self):
            return super().get_config()

    model = classifier(Unfolded(name="unfolded"))
    network = sec.trace(model)
    assert [group.name for group in network.groups] == ["unfolded.a"]
    small = sec.apply(model, network.cut({"unfolded.a": [0, 3]}), network=network)
    dense = model.get_layer("unfolded").b
    kernel, bias = dense.get_weights()
    kernel[[0, 3]] = 0
    dense.set_weights([kernel, bias])
    np.testing.assert_allclose(predict(small), predict(model), atol=1e-6)


@registered
class Attention(L.Layer):
    """Heads sized as a fraction of the input's width, which is also the output's width."""

    def build(self, shape):
        self.q, self.k, self.v, self.out = (L.Dense(8) for _ in range(4))
        for layer in (self.q, self.k, self.v, self.out):
            layer.build((None, None, 8))

    def call(self, x):
        batch, length, width = keras.ops.shape(x)

        def split(y):
            heads = keras.ops.reshape(y, (batch, length, 2, width // 2))
            return keras.ops.transpose(heads, (0, 2, 1, 3))

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        weights = keras.ops.softmax(q @ keras.ops.transpose(k, (0, 1, 3, 2)) * 0.3)
        joined = keras.ops.transpose(weights @ v, (0, 2, 1, 3))
        return self.out(keras.ops.reshape(joined, (batch, length, width)))

    def get_config(self):
        return super().get_config()


def test_heads_sized_as_a_fraction_of_another_width_are_cut_with_it():
    i = keras.Input((5, 6))
    stem = L.Dense(8, name="stem")(i)
    x = L.Add()([stem, Attention(name="attention")(stem)])
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    x = np.random.default_rng(1).standard_normal((1, 5, 6)).astype("float32")
    network = sec.trace(model, x)
    (group,) = network.groups
    assert len(group) == 4
    small = sec.apply(model, network.cut({group.name: [1]}), x, network=network)
    assert small.get_layer("stem").units == 6
    attention, gone = model.get_layer("attention"), [1, 5]  # the second position of each head
    for layer in (model.get_layer("head"), attention.q, attention.k, attention.v, attention.out):
        kernel, bias = layer.get_weights()
        kernel[gone] = 0
        if layer is attention.q:
            kernel[:, gone], bias[gone] = 0, 0
        layer.set_weights([kernel, bias])
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(small.predict(x, verbose=0), expected, atol=1e-5)


@registered
class Positions(L.Layer):
    """A layer called on constants, a row of a weight, and a second, constant output."""

    def build(self, shape):
        self.table, self.token = L.Embedding(7, 8), self.add_weight(shape=(1, 1, 8), name="token")
        self.table.build((1, 6))
        self.shift = self.add_weight(shape=(9, 8), name="shift")
        self.pass_on = L.Identity(dtype=self.dtype_policy)
        self.ids = keras.ops.expand_dims(keras.ops.arange(6), 0)

    def call(self, x, training=None):
        first = keras.ops.tile(self.token, (keras.ops.shape(x)[0], 1, 1))
        x = self.pass_on(keras.ops.concatenate([first, x], 1), training=training)
        x = x + self.table(self.ids)
        x = x + keras.ops.take(self.shift, np.array([2, 0, 1, 3, 5, 8]), axis=0)
        return x, keras.ops.zeros((1, 2))

    def get_config(self):
        return super().get_config()


def test_constants_that_layers_inside_are_called_on_have_their_channels():
    i = keras.Input((5, 6))
    x, _ = Positions(name="positions")(L.Dense(8, name="stem")(i))
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    x = np.random.default_rng(1).standard_normal((1, 5, 6)).astype("float32")
    network = sec.trace(model, x)
    (group,) = network.groups
    members = {member.tensor for member in group.members}
    owned = {f"positions.{name}" for name in ("table.embeddings", "token", "shift")}
    assert owned < members
    assert len(group) == 8
    small = sec.apply(model, network.cut({group.name: [1, 4, 6]}), x, network=network)
    kernel, bias = model.get_layer("head").get_weights()
    kernel[[1, 4, 6]] = 0
    model.get_layer("head").set_weights([kernel, bias])
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(small.predict(x, verbose=0), expected, atol=1e-5)


def test_opaque_code_freezes_only_what_it_touches():
    @registered
    class Closed(L.Layer):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise TypeError("tensors with data only")
            return 2 * x

        def get_config(self):
            return super().get_config()

    model = classifier(Block(8, Closed(name="closed"), name="block"))
    network = sec.trace(model)
    assert [group.name for group in network.groups] == ["block.conv", "block.rest.0"]
    reasons = [reason for f in network.frozen for reason in f.reasons]
    assert any("block.deeper (Closed): no rule for Closed, and its code" in r for r in reasons)


@registered
class Twice(L.Layer):
    """Writes to its own state, so its calls cannot be replayed one by one."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), name="count", initializer="zeros", trainable=False)
        self.dense = L.Dense(4)
        self.dense.build(shape)

    def call(self, x):
        self.count.assign(self.count + 1)
        return self.dense(x)

    def get_config(self):
        return super().get_config()


def test_code_that_writes_to_its_state_is_not_traced():
    model = classifier(Twice(name="twice"))
    before = float(model.get_layer("twice").count)
    network = sec.trace(model)
    assert not network.groups
    assert float(model.get_layer("twice").count) == before


def test_a_layer_whose_code_and_calls_differ_is_refused():
    """Code that depends on its input's values differs from its recorded calls."""

    @registered
    class Moody(L.Layer):
        def build(self, shape):
            self.dense = L.Dense(8)
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x) if isinstance(x, keras.KerasTensor) else 2 * self.dense(x)

        def get_config(self):
            return super().get_config()

    model = classifier(Moody(name="moody"))
    with pytest.raises(sec.CutError, match="moody: expected code that computes the same"):
        sec.delete_channels(model, {"moody.dense": [0]}, X)


def test_activations_and_gradients_rank_what_is_inside():
    model = build_block_model()
    network = sec.trace(model, X[:1])
    hidden = np.maximum(numpys_hidden(model), 0)
    scores = sec.score(network, "mean_activation", data=X)
    np.testing.assert_allclose(scores["block.rest.0"], hidden.mean((0, 1, 2)), rtol=1e-4)
    fisher = sec.score(network, "fisher", data=(X, np.array([0, 1, 0])))
    assert np.ptp(fisher["block.conv"]) > 0


def numpys_hidden(model):
    w = {leaf.name.removeprefix("block."): np.asarray(leaf.array()) for leaf in list_tensors(model)}
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    h = np.einsum("nhwcij,ijco->nhwo", windows, w["conv.kernel"]) + w["conv.bias"]
    h = (h - w["norm.moving_mean"]) / np.sqrt(w["norm.moving_variance"] + 1e-3)
    h = np.maximum(h * w["norm.gamma"] + w["norm.beta"], 0) * (1 + w["scale"])
    return h @ w["rest.0.kernel"][0, 0] + w["rest.0.bias"]


WHOLE = (
    "no rule for Whole, and its class is not registered with Keras; decorate it with "
    "@keras.saving.register_keras_serializable() to have its code followed, or register a rule "
    "for it with @secateurs.keras.rule(Whole)"
)


class Whole(L.Layer):
    """A layer whose class Keras cannot find by name; its sublayer could be traced."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.inner = L.Dense(7), Block(5)

    def call(self, x):
        return self.inner(self.first(x))

    def get_config(self):
        return super().get_config()


def test_a_layer_whose_class_is_not_registered_stays_whole():
    i = keras.Input((6, 6, 3))
    x = L.GlobalAveragePooling2D()(Whole(name="own")(L.Conv2D(4, 1, name="before")(i)))
    x = L.Dense(6, "relu", name="hidden")(x)
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    network = sec.trace(model)
    assert [group.name for group in network.groups] == ["hidden"]
    (why,) = (f.reasons for f in network.frozen if "before" in f.members)
    assert f"own (Whole): {WHOLE}" in why
    small = sec.delete_channels(model, {"hidden": [0, 3]}, X)
    before = {leaf.name: leaf.array() for leaf in list_tensors(model)}
    of_own = [leaf for leaf in list_tensors(small) if leaf.name.startswith("own.")]
    assert len(of_own) == 12
    for leaf in of_own:
        np.testing.assert_array_equal(leaf.array(), before[leaf.name], err_msg=leaf.name)
    kernel, bias = model.get_layer("head").get_weights()
    kernel[[0, 3]] = 0
    model.get_layer("head").set_weights([kernel, bias])
    np.testing.assert_allclose(predict(small), predict(model), atol=1e-6)


def test_an_unregistered_layer_inside_a_registered_one_stays_whole():
    model = classifier(Block(8, Whole(name="own"), name="block"))
    network = sec.trace(model, X)
    assert [group.name for group in network.groups] == ["block.conv", "block.rest.0"]
    reasons = [reason for f in network.frozen for reason in f.reasons]
    assert f"block.own (Whole): {WHOLE}" in reasons
    small = sec.delete_channels(model, {"block.conv": [1, 2]}, X)
    inner = small.get_layer("block").deeper
    assert isinstance(inner, Whole)
    for mine, theirs in zip(
        inner.get_weights(), model.get_layer("block").deeper.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert sec.report_of(small).proof.holds


def test_registering_the_class_opens_the_layer():
    class Later(Whole):
        pass

    def names():
        return [group.name for group in sec.trace(classifier(Later(name="own"))).groups]

    assert names() == []
    registered(Later)
    assert names() == ["own.first", "own.inner.conv", "own.inner.rest.0", "own.inner"]


def test_what_counts_as_registered():
    class Own(L.Dense):
        pass

    assert not is_registered(Own)
    assert is_registered(L.Dense)
    assert is_registered(keras.saving.register_keras_serializable("other", "Name")(Own))
    kind = type("Mine", (L.Layer,), {"__module__": "keras_of_mine.layers"})
    assert not is_registered(kind)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_code_that_computes_in_another_type_than_its_weights_is_followed(policy):
    gone = [1, 4, 6]
    block = Block(8, name="block", dtype=policy)
    for part in (block.conv, block.norm, *block.rest):
        part.dtype_policy = keras.DTypePolicy(policy)
    model = classifier(block)
    network = sec.trace(model)
    assert [group.name for group in network.groups] == ["block.conv", "block.rest.0", "block"]
    small = sec.apply(model, network.cut({"block.conv": gone}), X, proof="independent")
    assert small.get_layer("block").conv.kernel.dtype == "float32"
    assert small.get_layer("block").compute_dtype == policy.removeprefix("mixed_")
    scale = np.abs(numpys(model, gone)).max()
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.08}[policy] * scale
    np.testing.assert_allclose(predict(small), numpys(model, gone), atol=tolerance)
    assert np.abs(numpys(model, gone) - numpys(model, [])).max() > 3 * tolerance


@registered
class Codebook(L.Layer):
    """Replaces each vector by the nearest entry of a codebook."""

    def build(self, shape):
        self.codes = self.add_weight(shape=(16, shape[-1]), name="codes")

    def call(self, x):
        rows = keras.ops.reshape(x, (-1, x.shape[-1]))
        far = keras.ops.sum(self.codes**2, 1) - 2 * rows @ keras.ops.transpose(self.codes)
        found = keras.ops.take(self.codes, keras.ops.argmin(far, 1), axis=0)
        return keras.ops.reshape(found, (-1, *x.shape[1:]))


def test_codes_that_are_looked_up_carry_channels():
    i = keras.Input((6, 6, 3))
    x = Codebook(name="book")(L.Conv2D(8, 1, name="encode")(i))
    model = noisy(keras.Model(i, L.Conv2D(3, 1, name="decode")(x)))
    network = sec.trace(model)
    (encode,) = (group for group in network.groups if group.name == "encode")
    assert {member.tensor for member in encode.members} == {
        *("encode.kernel", "encode.bias", "book.codes", "decode.kernel"),
    }
    (why,) = (f.reasons for f in network.frozen if f.count == 16)
    assert any("looked up by the data" in reason for reason in why)
    small = sec.apply(model, network.cut({"encode": [1, 6]}), X)
    w = {leaf.name: np.asarray(leaf.array()) for leaf in list_tensors(model)}
    stay = [0, 2, 3, 4, 5, 7]
    rows = X.reshape(-1, 3) @ w["encode.kernel"][0, 0][:, stay] + w["encode.bias"][stay]
    codes = w["book.codes"][:, stay]
    found = codes[((rows[:, None] - codes) ** 2).sum(2).argmin(1)]
    expected = found @ w["decode.kernel"][0, 0][stay] + w["decode.bias"]
    np.testing.assert_allclose(predict(small).reshape(-1, 3), expected, atol=1e-5)


@registered
class Attending(L.Layer):
    """Single-head attention over unmasked steps, with the mask passed by Keras."""

    def __init__(self, width, inner=None, **options):
        super().__init__(**options)
        self.width, self.inner = width, inner
        self.q, self.k, self.v = (L.Dense(width, name=name) for name in "qkv")
        self.supports_masking = True

    def call(self, x, mask=None):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = keras.ops.matmul(q, keras.ops.swapaxes(k, -1, -2))
        if mask is not None:
            scores += -1e9 * (1 - keras.ops.cast(mask, scores.dtype)[:, None])
        y = keras.ops.matmul(keras.ops.softmax(scores), v)
        return y if self.inner is None else self.inner(y)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


TOKENS = np.array([[3, 1, 4, 0, 0], [2, 7, 1, 8, 0]], "int32")


def attending(inner=None, **options):
    i = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True, name="e")(i)
    x = Attending(8, inner, name="a", **options)(x)
    return noisy(keras.Model(i, L.Dense(2, name="head")(L.GlobalAveragePooling1D()(x))))


def test_a_mask_is_passed_through_a_layers_code():
    model, gone = attending(), [1, 6]
    small = sec.delete_channels(model, {"a.v": gone, "a.q": [0, 3]}, TOKENS)
    w = {leaf.name: np.asarray(leaf.array()) for leaf in list_tensors(model)}
    x = w["e.embeddings"][TOKENS]
    q, k, v = (x @ w[f"a.{n}.kernel"] + w[f"a.{n}.bias"] for n in "qkv")
    q[..., [0, 3]] = 0
    v[..., gone] = 0
    there = (TOKENS != 0).astype("float32")
    scores = q @ k.transpose(0, 2, 1) - 1e9 * (1 - there[:, None])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    pooled = (y * there[..., None]).sum(1) / there.sum(1, keepdims=True)
    expected = pooled @ w["head.kernel"] + w["head.bias"]
    np.testing.assert_allclose(small.predict(TOKENS, verbose=0), expected, atol=1e-5)
    assert small.get_layer("a").v.units == 6


def test_a_mask_that_is_passed_implicitly_keeps_a_layer_whole():
    inner = Attending(8, L.LSTM(8, return_sequences=True), name="inner")
    for model in (attending(inner), attending(dtype="mixed_bfloat16")):
        network = sec.trace(model)
        reasons = {reason for f in network.frozen for reason in f.reasons}
        assert any("a padding mask passes through its code" in reason for reason in reasons)
        assert not any(group.name.startswith("a.") for group in network.groups)


@registered
class Padded(L.Layer):
    """Its configuration holds what its constructor made of an argument: 'valid'."""

    def __init__(self, padding=None, **options):
        super().__init__(**options)
        self.pad = L.ZeroPadding2D(1) if padding is None else None
        self.padding = "valid"
        self.conv, self.beside = L.Conv2D(4, 3), L.Conv2D(4, 1)

    def call(self, x):
        return self.conv(x if self.pad is None else self.pad(x)) + self.beside(x)

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def test_attributes_missing_in_a_configuration_are_copied():
    i = keras.Input((6, 6, 3))
    x = Padded(name="padded")(i)
    x = L.Dense(6, "relu", name="hidden")(L.GlobalAveragePooling2D()(x))
    model = noisy(keras.Model(i, L.Dense(2, name="head")(x)))
    small = sec.delete_channels(model, {"hidden": [0, 3]}, X)
    assert small.get_layer("padded").pad is not None
    kernel, bias = model.get_layer("head").get_weights()
    kernel[[0, 3]] = 0
    model.get_layer("head").set_weights([kernel, bias])
    np.testing.assert_allclose(predict(small), predict(model), atol=1e-6)
