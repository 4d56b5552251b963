"""Parse example inputs into the arrays a model takes, or generate them where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import ModelError
from secateurs.keras.internals import (
    Functional,
    begin_graph_,
    graph_of,
    has_graph,
    is_subclassed,
    is_tensor,
    plain_class,
)
from secateurs.keras.model.code_errors import ClosedCodeError, explain, line_of
from secateurs.keras.model.tensors import named_operations

T = TypeVar("T")

FRAMEWORKS = ("torch", "tensorflow", "jax", "jaxlib")


def check_model(model: object, example_inputs: object = None) -> keras.Model:
    """Return the model if it can be traced; otherwise raise an error that says what to pass.

    Args:
        model: object given by the user.
        example_inputs: inputs of a subclassed model, needed where it does not know the shapes it
            was built for.

    Raises:
        ModelError: it is not a Keras model, is not built, has a graph but overrides ``call``, or
            belongs to another backend.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(_wrong_type_message(model))
    name, kind = model.name, type(model).__name__
    if isinstance(model, keras.Sequential):
        if type(model).call is not keras.Sequential.call:
            raise ModelError(_subclass_message(name, kind, "keras.Sequential(model.layers)"))
        if not has_graph(model):
            raise ModelError(
                f"{name}: expected a model that is built; received a {kind} without input shape. "
                f"Begin it with keras.Input(shape=...), or call {name}.build(input_shape) first."
            )
    elif is_subclassed(model):
        _give_graph_(model, example_inputs)
    elif type(model).call is not Functional.call:
        raise ModelError(
            _subclass_message(
                name, kind, "x = keras.Input(shape=...); keras.Model(x, model.call(x))"
            )
        )
    _check_training(model)
    _check_backend(model)
    return model


def _give_graph_(model: keras.Model, example_inputs: object) -> None:
    """Give a subclassed model a graph for the inputs it was built for."""
    if has_graph(model):
        return
    kind = type(model).__name__
    if not model.built:
        raise ModelError(
            f"{model.name}: expected a model that is built; received a {kind} that was never "
            f"called. Call it on a batch first: {model.name}(x[:1])"
        )
    given = example_inputs
    if given is None:
        given = _specs_of_build(model)
    if given is None:
        raise ModelError(
            f"{model.name}: expected example_inputs; {kind} does not record what it was called "
            "on. Pass a small batch of what the model sees: sec.trace(model, x[:1])"
        )
    try:
        begin_graph_(model, _name_specs(given))
    except Exception as error:
        if line_of(error):  # the model's own code raised
            raise closed_code_error(model, explain(error)) from error
        raise ModelError(
            f"{model.name}: expected a model whose call takes one argument: a tensor, or a list or "
            f"dictionary of tensors; that of {kind} raised {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:200]}. Received {format_inputs(given)}"
        ) from error


def closed_code_error(model: keras.Model, reason: str) -> ClosedCodeError:
    """Return the error for a subclassed model whose code cannot be followed, with the remedy."""
    return ClosedCodeError(
        f"{model.name}: expected a model whose call can be followed; received a "
        f"{type(model).__name__}: {reason}. Use keras.ops and layers there, which accept tensors "
        "of any backend; or move that part into a layer of its own, which is then not pruned",
        reason,
    )


def _specs_of_build(model: keras.Model) -> object:
    """Return symbolic tensors of the shapes the model was first called on; None if unknown."""
    shape = (model.get_build_config() or {}).get("input_shape")
    return _specs_of_shapes(shape, model.input_dtype)


def _specs_of_shapes(shape: object, kind: str) -> object:
    """Return symbolic tensors for one shape or a dictionary of shapes; None for anything else."""
    if isinstance(shape, Mapping):
        made = {name: _specs_of_shapes(one, kind) for name, one in shape.items()}
        return None if None in made.values() else made
    if not isinstance(shape, (list, tuple)) or any(isinstance(n, (list, tuple)) for n in shape):
        return None
    return keras.KerasTensor(tuple(shape), dtype=kind)


def _name_specs(given: object, name: str = "") -> object:
    """Return symbolic tensors with an open batch size, named by dictionary key or by position."""
    if isinstance(given, Mapping):
        return {key: _name_specs(value, f"{name}{key}") for key, value in given.items()}
    if isinstance(given, (tuple, list)):
        begin = name or "input_"
        return [_name_specs(value, f"{begin}{number}") for number, value in enumerate(given)]
    return _spec(given, name or "input")


def _spec(value: object, name: str) -> keras.KerasTensor:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    kind = keras.backend.standardize_dtype(value.dtype)
    # Keras casts float inputs to its own precision.
    kind = keras.config.floatx() if kind == "float64" else kind
    return keras.KerasTensor((None, *tuple(value.shape)[1:]), dtype=kind, name=name)


_TRAINING = (
    "compile",
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
)


def _check_training(model: keras.Model) -> None:
    """Refuse a model that would lose its training code: it can only be rebuilt as a plain model."""
    if is_subclassed(model):  # rebuilt with its own class
        return
    plain = plain_class(model)
    if plain is type(model):
        return
    overridden = [n for n in _TRAINING if getattr(type(model), n) is not getattr(keras.Model, n)]
    if overridden:
        way_out = "keras.Model(model.input, model.output)"
        raise ModelError(
            f"{model.name}: expected a model that trains as Keras's own do, or whose constructor "
            f"takes inputs and outputs; received {type(model).__name__}, which has its own "
            f"{overridden[0]} and its own constructor, and could not keep both. Without "
            f"{overridden[0]} it can be cut: {way_out}"
        )


def _subclass_message(name: str, kind: str, way_out: str) -> str:
    return (
        f"{name}: expected a sequential or functional model; received {kind}, a subclass with "
        "code of its own, which Keras cannot build again with other sizes. If its layers are "
        f"Keras's own, build its graph: {way_out}"
    )


def _wrong_type_message(model: object) -> str:
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__}
    if any(kind.startswith("keras.") and kind.endswith(".Model") for kind in kinds):
        return (
            f"expected a model of the Keras that is running now (backend "
            f"{keras.backend.backend()!r}); received one made before Keras was loaded anew, for "
            "another backend. Set KERAS_BACKEND before keras is imported, and build it again."
        )
    return f"expected a keras.Model; received {type(model).__name__}"


def _check_backend(model: keras.Model) -> None:
    for path, operation in named_operations(model):
        if type(operation).__name__ in ("TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"):
            continue  # built for this backend, or Keras would have refused it
        for variable in getattr(operation, "variables", ()):
            if not keras.ops.is_tensor(variable.value):
                raise ModelError(
                    f"{path}: expected tensors of the backend {keras.backend.backend()!r}; "
                    f"received a variable that holds {type(variable.value).__module__}."
                    f"{type(variable.value).__name__}. Build the model and use it on one backend."
                )


def as_arrays(example_inputs: object, model: keras.Model) -> list[NDArray[np.generic]]:
    """Return the inputs as a flat list of arrays, in the order of ``model.inputs``.

    Args:
        example_inputs: an array or tensor, or a tuple, list or dictionary (by name) of them.
        model: model the inputs are for.

    Raises:
        ModelError: there are too many or too few inputs, or one has the wrong shape or belongs to
            another framework.
    """
    expected = graph_of(model).inputs
    if _is_structured_alike(example_inputs, graph_of(model).input):
        given = list(keras.tree.flatten(example_inputs))
    elif isinstance(example_inputs, Mapping):
        lacking = [tensor.name for tensor in expected if tensor.name not in example_inputs]
        if lacking:
            raise ModelError(
                f"{model.name}: expected an input named {lacking[0]!r}; received inputs named "
                f"{', '.join(map(repr, example_inputs))}"
            )
        given = [example_inputs[tensor.name] for tensor in expected]
    elif isinstance(example_inputs, (list, tuple)):
        given = list(keras.tree.flatten(example_inputs))
    else:
        given = [example_inputs]
    if len(given) != len(expected):
        raise ModelError(
            f"{model.name}: expected {len(expected)} inputs "
            f"({', '.join(tensor.name for tensor in expected)}); received {len(given)}"
        )
    return [_as_array(value, tensor) for value, tensor in zip(given, expected, strict=True)]


def _is_structured_alike(given: object, expected: object) -> bool:
    """Return whether the inputs have the nested structure of the model's own."""
    if isinstance(expected, Mapping):
        return (
            isinstance(given, Mapping)
            and given.keys() == expected.keys()
            and all(_is_structured_alike(given[key], expected[key]) for key in expected)
        )
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(given, (list, tuple))
            and len(given) == len(expected)
            and all(map(_is_structured_alike, given, expected))
        )
    return not isinstance(given, (Mapping, list, tuple))


def _as_array(value: object, expected: keras.KerasTensor) -> NDArray[np.generic]:
    if is_tensor(value):
        array = np.asarray(keras.ops.convert_to_numpy(value))
    elif type(value).__module__.partition(".")[0] in FRAMEWORKS:
        raise ModelError(
            f"{expected.name}: expected a NumPy array or a tensor of the backend "
            f"{keras.backend.backend()!r}; received a {type(value).__module__}."
            f"{type(value).__name__}. Pass np.asarray(x)."
        )
    else:
        array = np.asarray(value)
    wanted = tuple(expected.shape)
    fits = array.ndim == len(wanted) and all(
        want in (None, have) for want, have in zip(wanted, array.shape, strict=True)
    )
    if not fits:
        raise ModelError(
            f"{expected.name}: expected an input of shape {wanted}; received {array.shape}"
        )
    return array


def make_inputs(
    model: keras.Model, index_ranges: Mapping[int, int], examples: int = 2
) -> list[NDArray[np.generic]]:
    """Generate inputs for a model that knows its input shapes; deterministic.

    Args:
        model: model the inputs are for.
        index_ranges: position of an input -> exclusive upper bound of its values, for inputs that
            hold indices.
        examples: number of examples, where the batch size is open.

    Raises:
        ModelError: an input has an open shape beside the batch, or takes text.
    """
    random = np.random.default_rng(0)
    arrays: list[NDArray[np.generic]] = []
    for number, tensor in enumerate(graph_of(model).inputs):
        shape = (examples if tensor.shape[0] is None else tensor.shape[0], *tensor.shape[1:])
        _check_known(model, tensor)
        kind = keras.backend.standardize_dtype(tensor.dtype)
        if kind == "string":
            raise ModelError(_needs_examples_message(model, tensor, "it takes text"))
        if number in index_ranges or "int" in kind:
            most = index_ranges.get(number, 2)
            arrays.append(random.integers(0, most, shape).astype(_array_dtype(kind)))
        elif kind == "bool":
            arrays.append(random.integers(0, 2, shape).astype(bool))
        else:
            arrays.append(random.standard_normal(shape).astype("float32"))
    return arrays


def _array_dtype(kind: str) -> str:
    return "float32" if kind in ("bfloat16", "float16") else kind


def _check_known(model: keras.Model, tensor: keras.KerasTensor) -> None:
    if None in tensor.shape[1:]:
        raise ModelError(
            _needs_examples_message(
                model, tensor, f"its shape {tuple(tensor.shape)} is not fully defined"
            )
        )


def _needs_examples_message(model: keras.Model, tensor: keras.KerasTensor, why: str) -> str:
    return (
        f"{model.name}: expected example_inputs, because of the input {tensor.name!r}: {why}. "
        "Pass a small batch of what the model sees: sec.trace(model, x[:1])"
    )


def input_shapes(
    model: keras.Model, arrays: Sequence[NDArray[np.generic]] | None
) -> list[tuple[int, ...]]:
    """Return the shapes to trace with: those of the examples or, without any, of a batch of one."""
    if arrays is not None:
        return [tuple(array.shape) for array in arrays]
    shapes = []
    for tensor in graph_of(model).inputs:
        _check_known(model, tensor)
        shapes.append((1 if tensor.shape[0] is None else tensor.shape[0], *tensor.shape[1:]))
    return shapes


def pack_inputs(model: keras.Model, flat: Sequence[T]) -> object:
    """Pack a flat list of inputs, in the order of ``model.inputs``, into the model's structure.

    A model that takes a single tensor, or tensors by name, accepts no other structure.
    """
    graph = graph_of(model)
    known = {id(tensor): one for tensor, one in zip(graph.inputs, flat, strict=True)}
    packed: object = keras.tree.map_structure(lambda tensor: known[id(tensor)], graph.input)
    return packed


def format_inputs(example_inputs: object) -> str:
    """Shapes and dtypes for error messages: '(1, 224, 224, 3) float32'."""
    if isinstance(example_inputs, Mapping):
        return "{" + ", ".join(f"{k}: {format_inputs(v)}" for k, v in example_inputs.items()) + "}"
    if isinstance(example_inputs, (tuple, list)):
        return "(" + ", ".join(format_inputs(value) for value in example_inputs) + ")"
    if hasattr(example_inputs, "shape") and hasattr(example_inputs, "dtype"):
        kind = keras.backend.standardize_dtype(example_inputs.dtype)
        return f"{tuple(example_inputs.shape)} {kind}"
    return type(example_inputs).__name__
