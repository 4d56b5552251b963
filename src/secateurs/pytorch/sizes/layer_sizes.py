"""Sizes that PyTorch's layers keep as integers, and the axes that they follow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from secateurs.channels.cost import Product
from secateurs.channels.equations import Equations, Ids
from secateurs.channels.network import Size
from secateurs.pytorch.model.copies import list_modules
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.tracer import Tracer

_Norm = nn.modules.batchnorm._NormBase
CONVOLUTION = nn.modules.conv._ConvNd
_Transposed = nn.modules.conv._ConvTransposeNd

FOLLOWS: tuple[tuple[type[nn.Module], str, str, int], ...] = (
    # layer, attribute, tensor it follows, axis of that tensor
    (_Transposed, "in_channels", "weight", 0),
    (_Transposed, "out_channels", "weight", 1),
    (CONVOLUTION, "out_channels", "weight", 0),
    (CONVOLUTION, "in_channels", "weight", 1),
    (nn.Linear, "out_features", "weight", 0),
    (nn.Linear, "in_features", "weight", 1),
    (nn.Bilinear, "out_features", "weight", 0),
    (nn.Bilinear, "in1_features", "weight", 1),
    (nn.Bilinear, "in2_features", "weight", 2),
    (nn.Embedding, "num_embeddings", "weight", 0),
    (nn.Embedding, "embedding_dim", "weight", 1),
    (nn.RNNBase, "input_size", "weight_ih_l0", 1),
    (nn.RNNBase, "hidden_size", "weight_hh_l0", 1),
    (nn.RNNCellBase, "input_size", "weight_ih", 1),
    (nn.RNNCellBase, "hidden_size", "weight_hh", 1),
    (nn.PReLU, "num_parameters", "weight", 0),
    (nn.GroupNorm, "num_channels", "weight", 0),
    (_Norm, "num_features", "weight", 0),
    (_Norm, "num_features", "running_mean", 0),
)


def layer_sizes_of(
    model: nn.Module, leaves: Sequence[ModelTensor], counts: Mapping[tuple[str, str], Ids]
) -> list[Size]:
    """Every integer attribute of a layer that a cut must update.

    Args:
        model: the traced model.
        leaves: its tensors, with the units along their axes.
        counts: (layer, attribute) -> units that it counts, found while tracing (convolution groups,
            ...).
    """
    by_tensor = {id(leaf.tensor): leaf for leaf in leaves}
    sizes: dict[tuple[str, str, int | None], Size] = {}
    by_layer: dict[str, list[tuple[str, tuple[Ids, ...]]]] = {}
    for (layer, attribute), counted in counts.items():
        by_layer.setdefault(layer, []).append((attribute, (counted,)))
    followed: dict[type, list[tuple[type, str, str, int]]] = {}
    for owner, module in list_modules(model):
        kind = type(module)
        if kind not in followed:
            followed[kind] = [row for row in FOLLOWS if isinstance(module, row[0])]
        found = _find_followed(module, followed[kind], by_tensor)
        for attribute, units in (*by_layer.get(owner, ()), *found):
            if getattr(module, attribute, None) == math.prod(len(u) for u in units):
                sizes.setdefault(
                    (owner, attribute, None), Size(owner, attribute, None, Product(1, units))
                )
        for place, axis_units in _find_normalized_shape(module, by_tensor):
            size = Size(owner, "normalized_shape", place, Product(1, (axis_units,)))
            sizes.setdefault((owner, "normalized_shape", place), size)
    return list(sizes.values())


def _find_followed(
    module: nn.Module,
    rows: Sequence[tuple[type, str, str, int]],
    by_tensor: Mapping[int, ModelTensor],
) -> Iterator[tuple[str, tuple[Ids, ...]]]:
    """Attributes of a layer that follow an axis of one of its tensors, by rows of ``FOLLOWS``."""
    for _, attribute, tensor, axis in rows:
        leaf = by_tensor.get(id(_look_up(module, tensor)))
        if leaf is not None and axis in leaf.axes:
            yield attribute, (leaf.axes[axis],)


def _look_up(module: nn.Module, name: str) -> object:
    """What a layer keeps by this name; a property is not asked.

    Under a parametrization it computes the weight, and spectral norm's, in training, goes on with
    its power iteration as it does so: the user's buffers would change.
    """
    for place in (module._parameters, module._buffers, vars(module)):
        if name in place:
            return place[name]
    return None


def may_have(module: nn.Module, name: str) -> bool:
    """Whether a module may have an attribute that is no parameter, buffer or module.

    Asking it for one that it lacks costs an exception.
    """
    kind = type(module)
    return (
        name in vars(module) or hasattr(kind, name) or kind.__getattr__ is not nn.Module.__getattr__
    )


def _find_normalized_shape(
    module: nn.Module, by_tensor: Mapping[int, ModelTensor]
) -> Iterator[tuple[int, Ids]]:
    """Entries of ``normalized_shape``, each of which follows an axis of the weight."""
    if not may_have(module, "normalized_shape"):
        return
    shape = getattr(module, "normalized_shape", None)
    leaf = by_tensor.get(id(_look_up(module, "weight")))
    if isinstance(shape, (tuple, list)) and leaf is not None:
        for axis, units in leaf.axes.items():
            if axis < len(shape) and shape[axis] == len(units):
                yield axis, units


def _parts_of(equations: Equations, made: Ids, width: int) -> list[Ids]:
    """Split the output of a projection into queries, keys and values, as the forward pass does.

    All are one part where they are made from the same values; else keys and values are, or each is
    a part.
    """
    if len(made) != 3 * width:
        return [made]
    for first in (0, width):
        fused = made[first:]
        if equations.sides(fused) is not None:
            parts, columns = equations.factor(fused, (len(fused) // width, width))
            equations.freeze(parts, "the split into queries, keys and values")
            return [made[:first], columns] if first else [columns]
    return [made[:width], made[width : 2 * width], made[2 * width :]]


def constrain_attention(model: nn.Module, leaves: Sequence[ModelTensor], tracer: Tracer) -> None:
    """Add the constraints of ``nn.MultiheadAttention``, whose checks no operation shows.

    Its embedding is heads times positions, and queries, keys and values have the same width.
    """
    by_tensor = {id(leaf.tensor): leaf for leaf in leaves}
    for owner, module in list_modules(model):
        if isinstance(module, nn.MultiheadAttention):
            _constrain_layer(owner, module, by_tensor, tracer)


def _constrain_layer(
    owner: str, module: nn.MultiheadAttention, by_tensor: Mapping[int, ModelTensor], tracer: Tracer
) -> None:
    """Add the constraints of one attention layer to the equations."""
    equations = tracer.equations
    width, heads = module.embed_dim, module.num_heads
    output = by_tensor.get(id(module.out_proj.weight))
    if output is None or not {0, 1} <= output.axes.keys() or heads in {1, width}:
        return
    equations.equate(output.axes[0], output.axes[1])
    rows, columns = equations.factor(output.axes[0], (heads, width // heads))
    for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        leaf = by_tensor.get(id(getattr(module, name)))
        made = None if leaf is None else leaf.axes.get(0)
        for part in () if made is None else _parts_of(equations, made, width):
            equations.equate(part, output.axes[0])
    for name in (
        "in_proj_weight",
        "q_proj_weight",
    ):  # the input queries have the width of all heads
        leaf = by_tensor.get(id(getattr(module, name)))
        if leaf is not None and 1 in leaf.axes:
            equations.equate(leaf.axes[1], output.axes[0])
    tracer.counts |= {
        (owner, "embed_dim"): output.axes[0],
        (owner, "num_heads"): rows,
        (owner, "head_dim"): columns,
    }
    for attribute in ("kdim", "vdim"):
        if getattr(module, attribute) == width:
            tracer.counts[owner, attribute] = output.axes[0]
