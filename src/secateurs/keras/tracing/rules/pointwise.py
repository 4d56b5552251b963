"""Rules for element-wise operations, and for those that change no value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import keras
from keras import layers

from secateurs.channels.network import Role
from secateurs.keras.internals import find_classes, operation_classes
from secateurs.keras.protocols import BackendTensor, Node
from secateurs.keras.tracing.elementwise import passes_on_values
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place, Value
from secateurs.keras.tracing.rules.registry import OF_ALL_OPERANDS, rule, rule_for, unknown
from secateurs.keras.tracing.symbolic import calls_in
from secateurs.keras.tracing.tracer import Tracer

TensorFunction = Callable[[BackendTensor], BackendTensor]
"""An activation function."""

ALONG_THE_LAST_AXIS = ("softmax", "log_softmax", "sparsemax")
CHANGES_SHAPE = ("glu",)


def meet(tracer: Tracer, operands: Sequence[Value], result: Value) -> None:
    """Equate axes of the operands that broadcast to the same axis of the result."""
    tracer.put(
        result,
        {
            axis: tracer.unify(
                [
                    Place(value, at)
                    for value in operands
                    if (at := axis - result.rank + value.rank) >= 0
                ]
            )
            for axis in range(result.rank)
        },
    )


@cache
def elementwise_functions() -> frozenset[TensorFunction]:
    """Return Keras's element-wise activation functions."""
    names = [name for name in dir(keras.activations) if not name.startswith("_")]
    others = {*ALONG_THE_LAST_AXIS, *CHANGES_SHAPE, "get", "serialize", "deserialize"}
    functions = [getattr(keras.activations, name) for name in names if name not in others]
    ops = [getattr(keras.ops, name, None) for name in names if name not in others]
    return frozenset([f for f in (*functions, *ops) if f is not None])


@cache
def along_the_last_axis() -> frozenset[TensorFunction]:
    """Return Keras's activation functions that mix the elements along the last axis."""
    places = (keras.activations, keras.ops)
    found = (getattr(place, name, None) for place in places for name in ALONG_THE_LAST_AXIS)
    return frozenset(function for function in found if function is not None)


def activate(tracer: Tracer, call: Call, function: TensorFunction | None) -> None:
    """Apply the effect of a layer's activation function to the labels of its outputs."""
    if function is None or is_one_of(function, elementwise_functions()):
        return
    for output in call.outputs:
        if is_one_of(function, along_the_last_axis()):
            over_the_last(tracer, call, output, f"{function.__name__} over these channels")
        elif not _follow(tracer, call, function, output):
            tracer.freeze(output, _why_unknown(call, function))


def works_by_element(function: TensorFunction | None, rank: int) -> bool:
    """Return whether an activation function is known, or tested, to be element-wise."""
    if function is None or is_one_of(function, elementwise_functions()):
        return True
    if is_one_of(function, along_the_last_axis()):
        return False
    return passes_on_values(function, rank)


def is_one_of(function: TensorFunction | None, known: frozenset[TensorFunction]) -> bool:
    """Return whether a function is one of these; a callable of the user's may have no hash."""
    return any(function is one for one in known)


def _follow(tracer: Tracer, call: Call, function: TensorFunction, output: Value) -> bool:
    """Trace the operations of an activation function; False if it may change the labels."""
    spec = keras.KerasTensor(output.shape, dtype=output.spec.dtype)
    seen = calls_in(function, [spec], {})
    if isinstance(seen, str) or len(keras.tree.flatten(seen.outputs)) != 1:
        return passes_on_values(function, output.rank)
    if any(map(_is_closed, seen.nodes)):
        # A function with weights is not tested: running it may change them.
        return not getattr(function, "weights", ()) and passes_on_values(function, output.rank)
    given = Value(output.spec, dict(output.axes), output.why)

    def label(node: Node, arguments: Sequence[object], keywords: dict[str, object]) -> list[Value]:
        operation = node.operation
        return tracer.inside(f"{call.path}.{operation.name}", operation, arguments, keywords)

    result = keras.tree.flatten(seen.run([given], label))[0]
    if result.shape != output.shape:
        return False
    for axis, units in output.axes.items():
        if (after := result.axes.get(axis)) is None:
            return False
        tracer.equations.equate(units, after)
    return True


def _is_closed(node: Node) -> bool:
    return rule_for(type(node.operation)) is None


def _why_unknown(call: Call, function: TensorFunction) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return f"{call}: its activation {name} is not known to be element-wise"


def over_the_last(tracer: Tracer, call: Call, value: Value, operation: str, axis: int = -1) -> None:
    """Freeze an axis along which each result depends on all elements."""
    tracer.freeze_known(value, f"{operation} in {call}", [axis])


@rule(layers.Activation)
def activation(tracer: Tracer, call: Call) -> None:
    """Activation layer with one of Keras's functions, or a user's."""
    tracer.carry(call)
    activate(tracer, call, call.layer.activation)


@rule(layers.Softmax, *operation_classes("Softmax", "LogSoftmax", "Sparsemax"))
def softmax(tracer: Tracer, call: Call) -> None:
    """Softmax over one or several axes."""
    tracer.carry(call)
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    for axis in axes:
        over_the_last(tracer, call, call.output, "softmax over these channels", axis)


@rule(
    layers.Identity,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    *find_classes(
        [layers],
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
        "RandomContrast",
        "RandomElasticTransform",
        "RandomErasing",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomGrayscale",
        "RandomHue",
        "RandomInvert",
        "RandomPerspective",
        "RandomPosterization",
        "RandomRotation",
        "RandomSaturation",
        "RandomSharpness",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
        "AugMix",
        "CutMix",
        "MixUp",
        "RandAugment",
    ),
)
def carry_unchanged(tracer: Tracer, call: Call) -> None:
    """Carry the input's channels: dropout, noise and augmentation act in training only."""
    tracer.carry(call)


@rule(layers.Rescaling)
def rescaling(tracer: Tracer, call: Call) -> None:
    """Scale and offset: scalars, or one value per channel."""
    each = [v for v in (call.layer.scale, call.layer.offset) if isinstance(v, (list, tuple))]
    if each and call.input.axes:
        return unknown(tracer, call, "its configuration holds one factor per channel")
    return tracer.carry(call)


@rule(layers.PReLU)
def prelu(tracer: Tracer, call: Call) -> None:
    """PReLU: one slope per position along the axes that are not shared."""
    slopes = tracer.weight(call.layer.alpha)
    for axis in range(1, call.input.rank):
        if slopes is not None and axis in call.input.axes:
            tracer.unify([Place(call.input, axis), Place(slopes, axis - 1)])
            tracer.play(Place(slopes, axis - 1), Role.SCALE)
    tracer.carry(call)


@rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def merge(tracer: Tracer, call: Call) -> None:
    """Element-wise merge; operands of lower rank get axes of length one after the batch."""
    axes = {}
    for axis in range(call.output.rank):
        lacking = [(value, call.output.rank - value.rank) for value in call.inputs]
        axes[axis] = tracer.unify(
            [
                Place(value, axis - fewer if axis else 0)
                for value, fewer in lacking
                if axis == 0 or axis - fewer > 0
            ]
        )
    tracer.put(call.output, axes)


@rule(
    *operation_classes(
        "Abs",
        "Absolute",
        "Add",
        "Arccos",
        "Arccosh",
        "Arcsin",
        "Arcsinh",
        "Arctan",
        "Arctan2",
        "Arctanh",
        "Cast",
        "Cbrt",
        "Ceil",
        "Celu",
        "Clip",
        "Conj",
        "ConvertToTensor",
        "Conjugate",
        "Copy",
        "Cos",
        "Cosh",
        "Deg2rad",
        "Divide",
        "DivideNoNan",
        "Elu",
        "Equal",
        "Erf",
        "Erfc",
        "Erfinv",
        "Exp",
        "Exp2",
        "Expm1",
        "Fabs",
        "Floor",
        "FloorDivide",
        "Fmax",
        "Fmin",
        "Fmod",
        "Gelu",
        "Greater",
        "GreaterEqual",
        "HardShrink",
        "HardSigmoid",
        "HardSilu",
        "HardTanh",
        "Heaviside",
        "Hypot",
        "Isfinite",
        "Isinf",
        "Isnan",
        "LeakyRelu",
        "Less",
        "LessEqual",
        "Log",
        "Log10",
        "Log1p",
        "Log2",
        "LogSigmoid",
        "Logaddexp",
        "Logaddexp2",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "LogicalXor",
        "Maximum",
        "Minimum",
        "Mod",
        "Multiply",
        "NanToNum",
        "Negative",
        "NotEqual",
        "OnesLike",
        "Power",
        "Rad2deg",
        "Real",
        "Reciprocal",
        "Relu",
        "Relu6",
        "Round",
        "Rsqrt",
        "SaturateCast",
        "Selu",
        "Sigmoid",
        "Sign",
        "Signbit",
        "Silu",
        "Sin",
        "Sinc",
        "Sinh",
        "SoftShrink",
        "Softplus",
        "Softsign",
        "SparsePlus",
        "SparseSigmoid",
        "Sqrt",
        "Square",
        "Squareplus",
        "StopGradient",
        "Subtract",
        "Tan",
        "Tanh",
        "TanhShrink",
        "Threshold",
        "TrueDivide",
        "Trunc",
        "Where",
        "ZerosLike",
    )
)
def apply_pointwise(tracer: Tracer, call: Call) -> None:
    """Apply an element-wise operation: axes aligned by broadcasting are equal."""
    meet(tracer, call.operands, call.output)


@rule(*operation_classes("Glu"))
def glu(tracer: Tracer, call: Call) -> None:
    """One half of an axis times the sigmoid of the other: both lose the same channels."""
    x = call.input
    axis = call.layer.axis % x.rank
    axes = dict(x.axes)
    if axis in axes:
        units = axes[axis]
        half = len(units) // 2
        halves, _ = tracer.equations.factor(units, (2, half))
        tracer.equations.freeze(halves, f"{call} needs both halves")
        tracer.equations.equate(units[:half], units[half:])
        axes[axis] = units[:half]
    tracer.put(call.output, axes)


def _register_applications() -> None:
    """Register rules for layers that modules of ``keras.applications`` define."""
    from keras.src.applications import convnext, inception_resnet_v2

    rule(*find_classes([convnext], "StochasticDepth"))(carry_unchanged)
    rule(*find_classes([inception_resnet_v2], "CustomScaleLayer"))(merge)

    @rule(*find_classes([convnext], "LayerScale"))
    def layer_scale(tracer: Tracer, call: Call) -> None:
        """LayerScale: one factor per channel."""
        scale = tracer.weight(call.layer.gamma)
        if scale is not None:
            units = tracer.unify([Place(call.input, -1), Place(scale, 0)])
            tracer.play(Place(scale, 0), Role.SCALE)
            tracer.counts(call.path, "projection_dim", units)
        tracer.carry(call)


_register_applications()
OF_ALL_OPERANDS.add(apply_pointwise)
