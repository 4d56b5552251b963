"""Sites: the places in a model's pass where weights can be refitted, and what follows them.

A contraction may be followed by a batch normalisation, moves of axes, a sum and a ReLU. The
contraction can compensate for errors of the sum's other operands; negative values before a ReLU
need not be fitted; and the moving mean of a batch normalisation can hold an intercept where the
contraction has no bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from secateurs.keras.internals import Layer, Variable, find_classes, operation_classes
from secateurs.keras.model.tensors import named_variables
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.contractions import EinsumMap, Map
from secateurs.keras.reconstruction.program import GraphRef, GraphStep, Piece, Program, as_numbers
from secateurs.reconstruction.drawing import rows_per_image
from secateurs.reconstruction.positions import Division, weigh_positions

Sums = NDArray[np.float64]

MOVES = (
    *(layers.Reshape, layers.Permute, layers.Flatten),
    *operation_classes("Reshape", "Transpose", "ExpandDims", "Squeeze", "Swapaxes", "Moveaxis"),
)
IDENTITIES = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.GaussianNoise, layers.GaussianDropout, layers.ActivityRegularization),
    *(layers.Identity, *operation_classes("Identity")),
)
SUMS = (layers.Add, *operation_classes("Add"))
RELUS = operation_classes("Relu")
SQUARES, POWERS, PRODUCTS, MEANS = (
    operation_classes(name) for name in ("Square", "Power", "Multiply", "Mean")
)
COPIES = operation_classes("Cast")
POSITION_NORMS = find_classes([layers], "LayerNormalization", "RMSNormalization")


@dataclass(eq=False, slots=True)
class Joint:
    """A sum that follows a contraction.

    Attributes:
        step: step of the sum.
        place: position of the operand that comes from the contraction.
        others: the other operands.
    """

    step: GraphStep
    place: int
    others: list[GraphRef]


@dataclass(eq=False, slots=True)
class Site:
    """One linear map whose weights can be refitted.

    Attributes:
        step: its step.
        map: the map, as matrix and patches.
        source: the value it reads.
        mean: moving mean of the batch normalisation after it, or None; holds an intercept where
            there is no bias.
        scale: factor of each output between the map and the sum, shape (outputs,) or ().
        shift: shift added to each output there, of the same shape.
        joint: the sum after it, or None.
        moves: steps between map and sum that move axes.
        rectified: whether a ReLU follows that alone reads the result.
        normalised: whether batch normalisation follows.
        beyond: factor of each output in a batch normalisation after that ReLU; weighs the errors.
        division: what a normalisation of each position of the sum (the result, where there is no
            sum) divides by.
    """

    step: GraphStep
    map: Map
    source: GraphRef
    mean: Variable | None = None
    scale: Sums = field(default_factory=lambda: np.ones(()))
    shift: Sums = field(default_factory=lambda: np.zeros(()))
    joint: Joint | None = None
    moves: list[GraphStep] = field(default_factory=list)
    rectified: bool = False
    normalised: bool = False
    beyond: Sums = field(default_factory=lambda: np.ones(()))
    division: Division = Division.NONE

    @property
    def has_intercept(self) -> bool:
        """Whether there is a bias or a moving mean to hold an intercept."""
        return self.map.bias is not None or self.mean is not None

    @property
    def importance(self) -> Sums:
        """Weight of each output's error, by the factors that follow it; shape (groups, outputs)."""
        shape = (self.map.groups, self.map.outputs)
        flat = np.broadcast_to(np.square(self.scale * self.beyond), (shape[0] * shape[1],))
        return flat.reshape(shape)

    def matrix(self) -> Sums:
        """Return the current weights, of shape (groups, inputs, outputs)."""
        return self.map.matrix(as_numbers(self.map.kernel))

    def new_values(self, matrix: Sums, intercept: Sums) -> list[tuple[Variable, Sums]]:
        """Return (variable, new values) for these weights and this intercept."""
        found: list[tuple[Variable, Sums]] = [(self.map.kernel, self.map.weight_from(matrix))]
        if self.map.bias is not None:
            found.append((self.map.bias, self.map.bias_from(intercept)))
        elif self.mean is not None:
            found.append((self.mean, as_numbers(self.mean) - intercept.reshape(-1)))
        return found

    def write_(self, matrix: Sums, intercept: Sums) -> None:
        """Set the weights, and the intercept if there is a place for it."""
        for variable, values in self.new_values(matrix, intercept):
            variable.assign(
                keras.ops.convert_to_tensor(np.ascontiguousarray(values), dtype=variable.dtype)
            )

    def rows_per_image(self, images: int) -> int:
        """Return the number of rows to sample per image."""
        return rows_per_image(self.map.inputs, images)

    def weigh_rows(self, piece: Piece) -> NDArray[np.float32] | None:
        """Weigh the error at each position of the result, shape (..., 1); see ``weigh_positions``.

        Args:
            piece: pass of the dense network, up to this site.

        Returns:
            The weights; None where no normalisation follows, or what is added is not known yet.
        """
        others = [] if self.joint is None else self.joint.others
        known = all(ref.step < 0 or ref in piece.values for ref in others)
        if self.division is Division.NONE or self.moves or not known:
            return None
        y = as_numbers(piece.find(GraphRef(self.step.number)))
        total = y + sum(as_numbers(piece.find(ref)) for ref in others)
        return weigh_positions(total, self.division) if total.shape == y.shape else None

    def move_back(
        self, value: NDArray[np.float32], like: NDArray[np.float32], piece: Piece
    ) -> NDArray[np.float32]:
        """Move a value at the sum back to the shape of the map's result (``like``)."""
        if not self.moves:
            return value
        index: BackendTensor = keras.ops.convert_to_tensor(
            np.arange(like.size, dtype=np.int32).reshape(like.shape)
        )
        ref = GraphRef(self.step.number)
        for step in self.moves:
            present, before = index, ref

            def find(
                source: object, present: BackendTensor = present, before: GraphRef = before
            ) -> object:
                return present if source == before else piece.find(source)

            (index,) = piece.steps[step.number].run(find)
            ref = GraphRef(step.number)
        found = np.empty(like.size, value.dtype)
        found[np.asarray(keras.ops.convert_to_numpy(index)).reshape(-1)] = value.reshape(-1)
        return found.reshape(like.shape)


class Sites:
    """Every site of a model's pass.

    Args:
        program: steps of the pass.
        norms: whether normalisations without a contraction before them are sites, too.
    """

    def __init__(self, program: Program, *, norms: bool = True) -> None:
        self._readers = program.readers()
        self._outputs = set(program.outputs)
        self._uses = _uses(program.steps)
        self.at: dict[int, Site] = {}
        behind: set[int] = set()
        for step in program.steps:
            site = self._site(step, norms and step.number not in behind)
            if site is not None:
                self.at[step.number] = site
                self._follow(site, behind)

    def _site(self, step: GraphStep, norms: bool) -> Site | None:
        known = step.part.map
        if known is None or (known.is_norm and not norms) or not step.reads:
            return None
        source = step.operands[0]
        weights = [known.kernel, *([] if known.bias is None else [known.bias])]
        if not isinstance(source, GraphRef) or not all(self._is_own(one) for one in weights):
            return None
        return Site(step, known, source)

    def _is_own(self, variable: Variable) -> bool:
        """Return whether a single step reads a variable."""
        return self._uses[id(variable)] == 1

    def _follow(self, site: Site, behind: set[int]) -> None:
        """Note what follows a site, up to the next step that mixes channels."""
        ref = self._follow_chain(site, behind)
        if ref is None:
            return
        self._note_division(site, ref)
        if site.joint is None:
            site.moves.clear()

    def _follow_chain(self, site: Site, behind: set[int]) -> GraphRef | None:
        """Follow a result as long as a single step reads it; None if a ReLU ends it."""
        ref = GraphRef(site.step.number)
        while ref not in self._outputs and len(readers := self._readers.get(ref, [])) == 1:
            step = readers[0]
            layer = step.part.layer
            if isinstance(layer, layers.BatchNormalization) and self._through_norm(site, step):
                behind.add(step.number)
            elif isinstance(layer, SUMS) and self._through_sum(site, step, ref):
                pass
            elif is_relu(step):
                site.rectified = not site.moves
                if site.rectified and not site.normalised:
                    site.beyond = self._scale_beyond(GraphRef(step.number))
                return None
            elif isinstance(layer, MOVES) and site.joint is None and len(step.reads) == 1:
                site.moves.append(step)
            elif not isinstance(layer, IDENTITIES):
                break
            ref = GraphRef(step.number)
        return ref

    def _note_division(self, site: Site, ref: GraphRef) -> None:
        last = site.map.channel == len(site.step.specs[0].shape) - 1
        if isinstance(site.map, EinsumMap) and last and not site.normalised:
            site.division = self._division_of(ref)

    def _division_of(self, ref: GraphRef) -> Division:
        """What a normalisation over the last axis that reads a value divides by."""
        found = Division.NONE
        for step in self._readers.get(ref, ()):
            layer = step.part.layer
            if isinstance(layer, POSITION_NORMS) and _is_last(step):
                found = division_by(layer)
            elif isinstance(layer, COPIES):
                found = self._division_of(GraphRef(step.number))
            elif _is_square(step) and self._is_averaged(GraphRef(step.number)):
                found = Division.ROOT_MEAN_SQUARE
            if found is not Division.NONE:
                break
        return found

    def _is_averaged(self, ref: GraphRef) -> bool:
        """Return whether a mean over the last axis reads a value."""
        return any(
            isinstance(step.part.layer, MEANS) and _is_last(step)
            for step in self._readers.get(ref, ())
        )

    def _scale_beyond(self, ref: GraphRef) -> Sums:
        """Scale of a batch normalisation that alone reads a value; one if there is none."""
        readers = self._readers.get(ref, [])
        if len(readers) != 1 or not isinstance(readers[0].part.layer, layers.BatchNormalization):
            return np.ones(())
        return scale_of(readers[0].part.layer)

    def _through_norm(self, site: Site, step: GraphStep) -> bool:
        """Note a batch normalisation directly after a site: a scale and a shift."""
        layer = step.part.layer
        if site.normalised or site.joint is not None or site.moves or site.map.is_norm:
            return False
        rank = len(step.specs[0].shape)
        if site.map.channel != layer.axis % rank:
            return False
        site.scale = scale_of(layer)
        beta = 0.0 if layer.beta is None else as_numbers(layer.beta).astype(np.float64)
        site.shift = beta - as_numbers(layer.moving_mean).astype(np.float64) * site.scale
        site.mean = layer.moving_mean if self._is_own(layer.moving_mean) else None
        site.normalised = True
        return True

    @staticmethod
    def _through_sum(site: Site, step: GraphStep, ref: GraphRef) -> bool:
        operands = step.operands
        others = [one for one in operands if isinstance(one, GraphRef) and one != ref]
        if site.joint is not None or len(others) != len(operands) - 1 or not others:
            return False
        site.joint = Joint(step, operands.index(ref), others)
        return True


def division_by(layer: Layer) -> Division:
    """Return what a layer divides each position by."""
    centred = isinstance(layer, layers.LayerNormalization)
    centred = centred and not getattr(layer, "rms_scaling", False)
    return Division.DEVIATION if centred else Division.ROOT_MEAN_SQUARE


def _is_last(step: GraphStep) -> bool:
    """Return whether a step's axis, or the only one of several, is the last of what it reads."""
    axis = getattr(step.part.layer, "axis", None)
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    keeps = getattr(step.part.layer, "keepdims", True)
    return axes in ([-1], [len(step.specs[0].shape) - bool(keeps)])


def _is_square(step: GraphStep) -> bool:
    """Return whether a step computes the square of one value."""
    layer, operands = step.part.layer, step.operands
    if isinstance(layer, POWERS):
        exponent = operands[1] if len(operands) == 2 else None
        return isinstance(exponent, (int, float)) and exponent == 2
    twice = isinstance(layer, PRODUCTS) and len(operands) == 2 and operands[0] == operands[1]
    return twice or isinstance(layer, SQUARES)


def _uses(steps: Sequence[GraphStep]) -> Mapping[int, int]:
    """Count the calls that read each variable (by ``id``)."""
    calls: dict[int, set[int]] = {}
    for step in steps:
        variables: list[Variable] = [one for one in step.operands if isinstance(one, Variable)]
        layer = step.part.layer
        if hasattr(layer, "variables"):
            variables += [variable for _, variable, _ in named_variables(layer, "")]
        if step.part.map is not None:
            variables.append(step.part.map.kernel)
        for variable in variables:
            calls.setdefault(id(variable), set()).add(step.operation)
    return Counter({key: len(numbers) for key, numbers in calls.items()})


def is_relu(step: GraphStep) -> bool:
    """Return whether a step is a plain ReLU."""
    layer = step.part.layer
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.relu
    return layer is keras.activations.relu or isinstance(layer, RELUS)


def scale_of(layer: Layer) -> Sums:
    """Return the scale of a batch normalisation, shape (channels,)."""
    variance = as_numbers(layer.moving_variance).astype(np.float64)
    scale: Sums = 1 / np.sqrt(variance + layer.epsilon)
    return scale if layer.gamma is None else scale * as_numbers(layer.gamma)
