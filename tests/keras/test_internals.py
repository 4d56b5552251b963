"""Private parts of Keras that Secateurs uses still behave as assumed."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.keras import internals


def test_gradients_are_slopes_of_each_tensor():
    slopes = internals.gradient_of(lambda tensors, factor: keras.ops.sum(tensors[0] ** 2) * factor)
    x = np.array([1.0, -2.0], "float32")
    (found,) = slopes([keras.ops.convert_to_tensor(x)], 3.0)
    assert np.allclose(found, 6 * x)


def test_nodes_are_in_topological_order():
    i = keras.Input((3,))
    one, two = L.Dense(4, name="one")(i), L.Dense(4, name="two")(i)
    model = keras.Model(i, L.Add(name="sum")([one, two]))
    names = [node.operation.name for node in internals.nodes_of(internals.graph_of(model))]
    assert sorted(names[:2]) == ["one", "two"]
    assert names[2] == "sum"


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="its tensors take no attributes")
def test_masks_of_keras_3_5_are_attributes(monkeypatch):
    for name in ("get_keras_mask", "set_keras_mask"):
        monkeypatch.delattr(internals.backend, name, raising=False)
    tensor, mask = keras.ops.ones((2,)), keras.ops.ones((2,), "bool")
    assert internals.mask_of(tensor) is None
    internals.set_mask(tensor, mask)
    internals.set_mask(tensor, None)
    assert internals.mask_of(tensor) is mask


@pytest.mark.parametrize("keywords", [{}, {"mask": None}, {"training": False, "mask": None}])
def test_a_call_is_added_to_a_graph_as_keras_adds_it(keywords):
    x, layer = keras.Input((4, 4, 3)), L.BatchNormalization()
    made = internals.add_plainly(layer, [x], keywords)
    node = internals.inbound_node_of(made)
    theirs = internals.NodeClass(layer, (x,), keywords, made)
    assert vars(node).keys() == vars(theirs).keys()
    assert node.outputs == theirs.outputs
    found, expected = vars(node.arguments), vars(theirs.arguments)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found)


def test_calls_are_intercepted_temporarily():
    layer = L.Dense(2)
    x = np.ones((1, 3), "float32")
    before = keras.ops.convert_to_numpy(layer(x))
    with internals.intercept_calls({layer: lambda call, given: call(given) * 0}):
        assert not keras.ops.convert_to_numpy(layer(x)).any()
    assert np.array_equal(keras.ops.convert_to_numpy(layer(x)), before)


def test_exclusions_from_weight_decay_are_copied():
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="a"), L.Dense(2, name="b")])
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    spared = internals.variables_without_decay(optimizer, model.variables)
    assert [id(one) for one in spared] == [id(layer.bias) for layer in model.layers]
    fresh = keras.optimizers.AdamW(0.1)
    internals.exclude_from_decay_(fresh, spared)
    again = internals.variables_without_decay(fresh, model.variables)
    assert [id(one) for one in again] == [id(one) for one in spared]


def test_classes_are_found_by_name_and_others_left_out():
    assert internals.find_classes([L], "Dense", "NoSuchLayer") == (L.Dense,)
    (relu,) = internals.operation_classes("Relu")
    assert relu.__name__ == "Relu"


@pytest.mark.parametrize("kind", [keras.Sequential, keras.Model])
def test_models_are_distinguished_from_subclasses(kind):
    plain = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    if kind is keras.Model:
        plain = keras.Model(plain.inputs[0], plain.outputs[0])

    class Own(keras.Model):
        def call(self, x):
            return x

    assert (internals.is_model(plain), internals.is_subclassed(plain)) == (True, False)
    assert (internals.is_model(Own()), internals.is_subclassed(Own())) == (False, True)


def test_shapes_are_inferred_without_data():
    layer = L.Conv2D(4, 3)
    layer.build((None, 8, 8, 3))
    spec = internals.infer(layer, keras.KerasTensor((2, 8, 8, 3)))
    assert tuple(spec.shape) == (2, 6, 6, 4)


def test_a_plain_call_gives_what_the_layer_gives():
    random = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(random.normal(size=(2, 5, 5, 4)).astype("float32"))
    for layer in (L.Conv2D(3, 3, activation="relu"), L.BatchNormalization(), L.Dropout(0.5)):
        layer.build(x.shape)
        given = internals.call_plainly(layer, [x], {"training": False, "mask": None})
        assert given is not internals.NOT_PLAIN
        expected = keras.ops.convert_to_numpy(layer(x, training=False))
        assert np.array_equal(keras.ops.convert_to_numpy(given), expected)
    both = internals.call_plainly(L.Add(), [[x, x]], {})
    if both is internals.NOT_PLAIN:  # not built
        both = L.Add()([x, x])
    assert np.allclose(keras.ops.convert_to_numpy(both), 2 * keras.ops.convert_to_numpy(x))


def test_a_plain_call_checks_what_keras_checks():
    layer = L.Dense(3)
    layer.build((None, 4))
    with pytest.raises(ValueError, match="incompatible"):
        internals.call_plainly(layer, [keras.ops.ones((2, 5))], {})


SPECS = [
    None,
    L.InputSpec(ndim=3),
    L.InputSpec(min_ndim=2, axes={-1: 4}),
    L.InputSpec(max_ndim=3, axes={1: 5, -1: None}),
    L.InputSpec(axes={-3: 5}),
    L.InputSpec(shape=(None, 4), allow_last_axis_squeeze=True),
    L.InputSpec(dtype="float32", ndim=2),
    [L.InputSpec(ndim=2), L.InputSpec(ndim=3)],
]
SHAPES = [(2, 4), (2, 4, 1), (2, 5, 4), (2, 5, 3), (2, 5, 2, 4), (None, None, 4), (None, 5, None)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("times", [0, 1, 2])
def test_inputs_are_checked_as_keras_checks_them(spec, shape, times):
    layer = L.Layer()
    layer.input_spec = spec
    tensor = keras.KerasTensor(shape)
    given = [tensor] * times or tensor
    try:
        expected = keras.src.layers.input_spec.assert_input_compatibility(spec, given, layer.name)
    except (ValueError, IndexError) as error:
        expected = str(error)
    try:
        found = internals.check_input(layer, given)
    except (ValueError, IndexError) as error:
        found = str(error)
    assert found == expected


def test_calls_that_are_not_plain_go_through_keras():
    x = keras.ops.ones((2, 3))
    masked = keras.ops.ones((2, 3, 4))
    internals.set_mask(masked, keras.ops.ones((2, 3), dtype="bool"))
    mixed = L.Dense(2, dtype="mixed_float16")
    mixed.build((None, 3))
    penalised = L.Dense(2, activity_regularizer="l2")
    penalised.build((None, 3))

    class Own(L.Dense):
        pass

    custom = Own(2)
    custom.build((None, 3))
    norm = L.LayerNormalization()
    norm.build((None, 3, 4))
    for layer, given in (
        (mixed, x),
        (penalised, x),
        (custom, x),
        (norm, masked),
        (L.Dense(2), x),  # not built
        (L.Embedding(4, 2, mask_zero=True), x),
    ):
        assert internals.call_plainly(layer, [given], {}) is internals.NOT_PLAIN


def test_layers_copied_from_a_pattern_are_independent_and_complete():
    pattern = internals.LayerPattern(L.Conv2D(4, 3, kernel_regularizer="l2", name="pattern"))
    assert pattern.is_simple
    one, two = pattern.copy("one"), pattern.copy("two")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, two(one(inputs)))
    made = L.Conv2D(4, 3, kernel_regularizer="l2", name="one")
    assert one.get_config() == made.get_config()
    assert [tuple(v.shape) for v in one.weights] == [(3, 3, 3, 4), (4,)]
    assert [tuple(v.shape) for v in two.weights] == [(3, 3, 4, 4), (4,)]
    assert [layer.name for layer in model.layers[1:]] == ["one", "two"]
    assert one.kernel_initializer is not two.kernel_initializer
    assert one.input is model.input
    with pytest.raises(ValueError, match="cannot add new elements"):
        one.more = keras.Variable(1.0)  # it tracks its attributes, and is built
    random = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    model.compile("sgd", "mse")
    before = [w.copy() for w in model.get_weights()]
    model.fit(random, np.zeros((1, 4, 4, 4)), verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_calls_are_added_to_a_graph_as_keras_adds_them():
    def graph(call):
        inputs = keras.Input((8, 8, 3), name="in")
        hidden = call(L.Conv2D(4, 3, name="conv"), inputs)
        made = call(L.Activation("relu", name="act"), hidden)
        return keras.Model(inputs, made, name="model")

    plain = graph(lambda layer, given: internals.add_plainly(layer, (given,), {}))
    expected = graph(lambda layer, given: layer(given))
    assert plain.get_config() == expected.get_config()
    for name in ("conv", "act"):
        mine, theirs = (model.get_layer(name) for model in (plain, expected))
        (node,), (other,) = mine._inbound_nodes, theirs._inbound_nodes
        assert vars(node).keys() == vars(other).keys()
        assert vars(node.arguments).keys() == vars(other.arguments).keys()
        assert node.is_input == other.is_input
        assert [t.name for t in node.input_tensors] == [node.arguments.args[0].name]
        assert node.parent_nodes[0].operation.name == other.parent_nodes[0].operation.name
        assert len(mine._outbound_nodes) == len(theirs._outbound_nodes)
        assert node.outputs[0]._keras_history[1:] == other.outputs[0]._keras_history[1:]
        assert node.outputs[0]._keras_history.operation is mine
    x = np.ones((1, 8, 8, 3), "float32")
    expected.set_weights(plain.get_weights())
    assert np.array_equal(plain.predict(x, verbose=0), expected.predict(x, verbose=0))


def test_initializers_are_copied_with_their_seeds_and_draws():
    one = internals.LayerPattern(L.Dense(3, kernel_initializer=keras.initializers.HeNormal(7)))
    other = internals.LayerPattern(L.Dense(3))
    assert [one.copy(name).kernel_initializer.seed for name in "ab"] == [7, 7]
    first, second = (other.copy(name).kernel_initializer for name in "ab")
    assert first.seed != second.seed
    assert first.get_config() == second.get_config() == L.Dense(3).kernel_initializer.get_config()


def test_layers_with_state_are_not_patterns():
    wrapper = L.TimeDistributed(L.Dense(2))
    built = L.Dense(2)
    built.build((None, 3))
    for layer in (L.Dropout(0.5), L.LSTM(3), wrapper, built):  # a seed, a cell, a layer, weights
        assert not internals.LayerPattern(layer).is_simple


@pytest.mark.parametrize(
    "layer", [L.Conv2D(4, 3, name="it"), L.BatchNormalization(name="it"), L.Dense(5, name="it")]
)
def test_a_layer_of_a_graph_is_built_as_keras_builds_it(layer):
    given = keras.KerasTensor((2, 6, 6, 3))
    plain = type(layer).from_config(layer.get_config())
    made = internals.add_plainly(plain, (given,), {})
    expected = layer(given)
    assert made.shape == expected.shape
    assert plain.get_build_config() == layer.get_build_config()
    assert (plain.built, plain.path) == (True, layer.path)
    assert [one.path for one in plain.variables] == [one.path for one in layer.variables]
    with pytest.raises(ValueError, match="cannot add new elements"):
        plain.late = plain.add_weight(shape=(1,), name="late")


def test_assumed_values_are_the_numbers_given_at_their_places():
    layer = L.Conv2D(16, 3)
    layer.build((None, 8, 8, 32))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 32, 16)).astype("float32")
    pairs = [(layer.kernel, keras.ops.convert_to_tensor(kernel))]
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 32)).astype("float32")
    with internals.AssumedValues(state_mapping=pairs):
        value = layer.kernel.value
        assert np.array_equal(keras.ops.convert_to_numpy(value), kernel)
        assumed = keras.ops.convert_to_numpy(layer(x))
        assert layer.bias.value is not None
    if keras.backend.backend() == "torch":  # as Keras's convolution would copy it
        assert value.permute(3, 2, 0, 1).is_contiguous(memory_format=_channels_last())
    assert not np.allclose(keras.ops.convert_to_numpy(layer(x)), assumed)
    layer.kernel.assign(kernel)
    assert np.allclose(keras.ops.convert_to_numpy(layer(x)), assumed, rtol=1e-5, atol=1e-5)


def _channels_last():
    import torch

    return torch.channels_last


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int32"])
def test_numbers_are_picked_by_their_places_from_first_to_last(kind):
    values = np.arange(24).reshape(2, 3, 4)
    tensor = keras.ops.convert_to_tensor(values, dtype=kind)
    picked = keras.ops.cast(internals.pick_flat(tensor, np.array([0, 5, 23])), "float32")
    assert keras.ops.convert_to_numpy(picked).tolist() == [0, 5, 23]


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int32"])
def test_what_does_not_stay_is_filled_with_zeros(kind):
    values = np.arange(1, 25).reshape(2, 3, 4)
    tensor = keras.ops.convert_to_tensor(values, dtype=kind)
    stays = np.array([True, False, True]).reshape(1, 3, 1)
    filled = internals.fill_zeros(tensor, stays)
    assert keras.backend.standardize_dtype(filled.dtype) == kind
    found = keras.ops.convert_to_numpy(keras.ops.cast(filled, "float32"))
    assert np.array_equal(found, np.where(stays, values, 0))
    again = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
    assert np.array_equal(again, values)


def test_zeros_take_the_place_of_values_that_are_not_finite():
    tensor = keras.ops.convert_to_tensor(np.array([[np.nan, np.inf, 1]], "float32"))
    filled = internals.fill_zeros(tensor, np.array([[False, False, True]]))
    assert keras.ops.convert_to_numpy(filled).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_are_picked_along_an_axis(kind, axis):
    values = np.arange(24).reshape(2, 3, 4)
    tensor = keras.ops.convert_to_tensor(values, dtype=kind)
    picked = internals.pick_along(tensor, np.array([1, 0], np.int32), axis)
    assert keras.backend.standardize_dtype(picked.dtype) == kind
    found = keras.ops.convert_to_numpy(keras.ops.cast(picked, "float32"))
    assert np.array_equal(found, np.take(values, [1, 0], axis=axis))


SIDES = (8, 160)
"""Side of a matrix that is copied, and of one whose memory TensorFlow takes over."""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kept", [{}, {0: [0, 2, 7]}, {1: [3, 1], 0: [0, 5]}])
def test_slices_of_a_variable_are_copies(side, kept):
    values = np.random.default_rng(0).normal(size=(side, side)).astype("float32")
    variable = keras.Variable(values)
    indices = {axis: np.array(some) for axis, some in kept.items()}
    picked = internals.pick_slices(variable.value, indices)
    expected = values[np.ix_(*(kept.get(axis, range(side)) for axis in (0, 1)))]
    variable.assign(values + 1)
    assert np.array_equal(keras.ops.convert_to_numpy(picked), expected)
    other = keras.Variable(picked)
    other.assign_add(np.ones_like(expected))
    assert np.array_equal(keras.ops.convert_to_numpy(variable), values + 1)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's memory")
def test_large_slices_are_not_copied_twice(monkeypatch):
    variable = keras.Variable(np.ones((256, 256), "float32"))
    made = []
    take = internals.take_over
    monkeypatch.setattr(
        internals,
        "take_over",
        lambda numbers, dtype: (made.append(numbers), take(numbers, dtype))[1],
    )
    for kept in ({}, {1: np.arange(200)}):
        picked = internals.pick_slices(variable.value, kept)
        assert np.shares_memory(np.asarray(picked), made[-1])


@pytest.mark.parametrize("once", [True, False])
def test_a_function_compiled_to_run_once_gives_the_same(once):
    double = internals.compile_function(lambda x: x * 2, once=once)
    assert keras.ops.convert_to_numpy(double(keras.ops.ones(3))).tolist() == [2, 2, 2]


SIZED = [
    (L.Conv2D, {"kernel_size": 3}, "filters"),
    (L.Conv1D, {"kernel_size": 3, "kernel_regularizer": "l2"}, "filters"),
    (L.Dense, {"activation": "relu"}, "units"),
]


@pytest.mark.parametrize(("kind", "options", "size"), SIZED)
def test_a_copy_of_another_size_is_the_layer_that_the_constructor_makes(kind, options, size):
    first, second, expected = (
        kind.from_config(kind(**{size: n}, **options, name="it").get_config()) for n in (4, 6, 7)
    )
    pattern = internals.LayerPattern(first)
    assert pattern.follows({size: 6}, internals.LayerPattern(second))
    made = pattern.copy("it", {size: 7})
    assert made.get_config() == expected.get_config()
    assert made._auto_config.config == expected._auto_config.config
    shape = (None, *(8,) * (getattr(made, "rank", 0)), 3)
    for layer in (made, expected):
        layer.build(shape)
    assert [(v.path, tuple(v.shape)) for v in made.weights] == [
        (v.path, tuple(v.shape)) for v in expected.weights
    ]
    assert made.compute_output_shape(shape) == expected.compute_output_shape(shape)


def test_a_size_that_another_attribute_depends_on_is_not_set_in_copies():
    def of(units, scale):
        layer = L.Dense(units, name="it")
        layer.scale = scale
        return internals.LayerPattern(layer)

    assert of(4, 0.5).follows({"units": 6}, of(6, 0.5))
    assert not of(4, 0.5).follows({"units": 6}, of(6, 0.4))
    assert not of(4, 0.5).follows({"units": 5}, of(6, 0.5))


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(4, 3, strides=2, padding="same"),
        L.DepthwiseConv2D(3),
        L.Conv2DTranspose(4, 3),
        L.BatchNormalization(),
        L.ReLU(),
        L.ZeroPadding2D(1),
        L.AveragePooling2D(2),
        L.GlobalMaxPooling2D(),
        L.Flatten(),
        L.Dense(5),
        L.LayerNormalization(dtype="mixed_float16"),
        L.UpSampling2D(2),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("batch", [None, 2])
def test_outputs_are_inferred_as_keras_infers_them(layer, batch):
    given = keras.KerasTensor((batch, 9, 9, 3))
    found = internals.infer_plainly(layer, given)
    expected = layer.compute_output_spec(given)
    if found is not internals.NOT_PLAIN:
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    else:
        assert isinstance(
            layer, (L.Conv2DTranspose, L.Flatten)
        )  # a list of sizes, its own inference


def test_outputs_of_other_calls_are_not_inferred_plainly():
    class Own(L.Dense):
        pass

    one = keras.KerasTensor((2, 3))
    for layer, given in ((Own(2), one), (L.Add(), [one, one]), (L.Dense(2), np.ones((2, 3)))):
        assert internals.infer_plainly(layer, given) is internals.NOT_PLAIN


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint32"])
def test_arrays_are_assigned_by_value(dtype):
    variable = keras.Variable(np.zeros((2, 3)), dtype=dtype, trainable="float" in dtype)
    held = variable.value
    numbers = keras.ops.convert_to_numpy(keras.ops.cast(np.arange(6).reshape(2, 3), dtype))
    internals.assign_(variable, numbers)
    assert np.array_equal(keras.ops.convert_to_numpy(variable.value).astype("int"), numbers)
    if keras.backend.backend() == "torch":
        assert variable.value is held or variable.value.data_ptr() == held.data_ptr()
    if keras.backend.backend() == "jax":  # a variable keeps the array that it is assigned
        return
    numbers[:] = 7
    assert not (keras.ops.convert_to_numpy(variable.value).astype("int") == 7).any()
