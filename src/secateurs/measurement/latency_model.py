"""Latency of any cut of a network, predicted by a model fitted to measured cuts.

A layer's time is modelled as a sum of terms that follow its widths: its multiply-accumulates, as
they are and with widths rounded up to whole vectors; the values it reads and writes; and its
weights, which a pass reads once whatever the batch. Products of activations (attention) have a term
for the scores of all pairs of positions in each head: a softmax passes over them, and narrower
heads have as many. Depthwise layers have terms of their own, more where their width is not a
multiple of 4, 8 or 16, because runtimes that keep channels in blocks leave their fast path there.
The cost of each term on a machine and runtime is fitted by non-negative least squares to the times
of some dozen real cuts of the network. The residuals are carried over to similar cuts
(``residuals``). The model's error is estimated by leaving each cut out in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.optimize import nnls

from secateurs.channels.arrays import Floats
from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role, Tensor
from secateurs.errors import MeasurementError, in_one_line
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.residuals import Residuals

VECTOR = 16
"""Channels in one vector of current processors (float32, AVX-512), or in two of half the width."""

TERMS = (
    "constant",
    "macs of 1x1",
    "macs of kxk",
    "macs in whole vectors",
    "macs, no multiple of 16",
    "depthwise macs",
    "depthwise, no multiple of 4",
    "depthwise, no multiple of 8",
    "depthwise, no multiple of 16",
    "numbers moved",
    "numbers moved, no multiple of 4",
    "weights",
    "attention scores",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One contraction, with what its terms are computed from.

    Attributes:
        name: name of the layer.
        positions: multiply-accumulates per element of the weight; 0 if there is no weight.
        kernel: elements of the weight for each pair of channels.
        outputs: units along its output axis; None if that keeps its length.
        inputs: units along its input axis, or a product of activations' last axis (the channels of
            each head); None if that keeps its length.
        lengths: dense lengths of the output and input axes.
        is_depthwise: whether each output channel reads only its own input channel.
        constant: constant factor of its multiply-accumulates.
        axes: units of the axes that its multiply-accumulates are proportional to.
    """

    name: str
    positions: float
    kernel: int
    outputs: NDArray[np.int64] | None
    inputs: NDArray[np.int64] | None
    lengths: tuple[int, int]
    is_depthwise: bool
    constant: int
    axes: tuple[NDArray[np.int64], ...]


class WidthTerms:
    """Terms of a network's time, for any choice of kept atoms.

    Attributes:
        layers: layers whose terms are summed.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.layers = [_layer_of(network, number) for number in range(len(network.contractions))]
        self._positions = np.array([layer.positions for layer in self.layers], np.float64)
        is_weighted = self._positions > 0
        is_depthwise = np.array([layer.is_depthwise for layer in self.layers], bool)
        is_point = np.array([layer.kernel == 1 for layer in self.layers], bool)
        follows = np.array([bool(layer.axes) for layer in self.layers], bool)
        self._scored = ~is_weighted & follows
        self._dense = is_weighted & ~is_depthwise
        self._depthwise = is_weighted & is_depthwise
        # A product of activations (attention) has no kernel.
        self._point = ~is_weighted | (self._dense & is_point)
        self._kernel = self._dense & ~is_point

    def of(self, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()) -> NDArray[np.float64]:
        """Terms summed over layers, except those of removed blocks; shape (terms,)."""
        return self.sum(*self.sizes(alive, blocks))

    def sizes(
        self, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Arguments of ``sum`` for each layer: outputs, inputs, MACs, whether it is present."""
        stays = self._network.solution.mark_kept(alive)
        counts: dict[int, int] = {}

        def count(units: NDArray[np.int64] | None, length: int) -> int:
            if units is None:
                return length
            if id(units) not in counts:
                counts[id(units)] = int(stays[units].sum())
            return counts[id(units)]

        there = [not any(b.takes_with_it(layer.name) for b in blocks) for layer in self.layers]
        out = [count(layer.outputs, layer.lengths[0]) for layer in self.layers]
        into = [count(layer.inputs, layer.lengths[1]) for layer in self.layers]
        macs = [
            float(layer.constant) * float(np.prod([count(axis, len(axis)) for axis in layer.axes]))
            for layer in self.layers
        ]
        out_, into_, macs_, there_ = (np.array(one, np.float64) for one in (out, into, macs, there))
        return out_, into_, macs_, there_

    def sum(
        self,
        out: NDArray[np.floating | np.integer],
        into: NDArray[np.floating | np.integer],
        macs: NDArray[np.float64],
        there: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Terms summed over the layers, shape (..., terms).

        Args:
            out: length of each layer's output axis, shape (..., layers) like all arguments.
            into: length of its input axis.
            macs: its multiply-accumulates.
            there: 1 for each layer that is present, 0 if it was removed with its block.
        """
        macs = macs * there
        dense, depthwise = macs * self._dense, macs * self._depthwise
        moved = self._positions * there * (out + np.where(self._depthwise, out, into))
        filled = _round_up(out) * _round_up(into) / np.maximum(1, out * into)
        columns = {
            "constant": np.ones(1),
            "macs of 1x1": macs * self._point,
            "macs of kxk": macs * self._kernel,
            "macs in whole vectors": dense * filled,
            "macs, no multiple of 16": dense * (out % VECTOR != 0),
            "depthwise macs": depthwise,
            "depthwise, no multiple of 4": depthwise * (out % 4 != 0),
            "depthwise, no multiple of 8": depthwise * (out % 8 != 0),
            "depthwise, no multiple of 16": depthwise * (out % 16 != 0),
            "numbers moved": moved,
            "numbers moved, no multiple of 4": moved * (out % 4 != 0),
            "weights": dense / np.where(self._dense, self._positions, 1),
            "attention scores": macs * self._scored / np.maximum(1, into),
        }
        terms = np.empty((*macs.shape[:-1], len(TERMS)))
        for place, name in enumerate(TERMS):
            terms[..., place] = columns[name].sum(axis=-1)
        return terms


def _round_up(width: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
    return np.ceil(width / VECTOR) * VECTOR


def _layer_of(network: Network, number: int) -> Layer:
    contraction = network.contractions[number]
    product = contraction.macs
    dense = product.constant * int(np.prod([len(axis) for axis in product.axes], dtype=np.int64))
    weight = _weight_of(network, contraction.layer, product.axes)
    if weight is None:
        name, axes = contraction.layer, product.axes
        channels = axes[-1] if axes else None
        lengths = (1, 1 if channels is None else len(channels))
        return Layer(name, 0.0, 1, None, channels, lengths, False, product.constant, axes)
    size = int(np.prod(weight.shape, dtype=np.int64))
    out_axis, in_axis = (_axis(weight, role) for role in (Role.FILTER, Role.INPUT))
    kernel = 1
    for axis, length in enumerate(weight.shape):
        kernel *= 1 if axis in (out_axis, in_axis) else length
    return Layer(
        contraction.layer,
        dense / size,
        kernel,
        None if out_axis is None else weight.axes.get(out_axis),
        None if in_axis is None else weight.axes.get(in_axis),
        (
            1 if out_axis is None else weight.shape[out_axis],
            1 if in_axis is None else weight.shape[in_axis],
        ),
        is_depthwise(network, weight),
        product.constant,
        product.axes,
    )


def _weight_of(network: Network, layer: str, axes: Sequence[NDArray[np.int64]]) -> Tensor | None:
    """The weight of a contraction: a tensor of its layer, along the same axes."""
    wanted = {id(axis) for axis in axes}
    of_layer = [t for t in network.tensors.values() if t.layer == layer and len(t.shape) > 1]
    fitting = [t for t in of_layer if {id(a) for a in t.axes.values()} <= wanted or not wanted]
    return max(fitting or of_layer, key=lambda t: len(t.axes), default=None)


def _axis(tensor: Tensor, role: Role) -> int | None:
    return next((axis for axis, played in tensor.roles.items() if played is role), None)


def is_depthwise(network: Network, tensor: Tensor) -> bool:
    """Whether a tensor is the weight of a depthwise convolution.

    The first convolution of a greyscale-image model has a weight of that shape but is not one.
    """
    first = network.contractions[0].layer if network.contractions else ""
    if tensor.layer == first:
        return False
    out_axis, in_axis = (_axis(tensor, role) for role in (Role.FILTER, Role.INPUT))
    if len(tensor.shape) < 3 or out_axis is None or len(tensor.axes) != 1:
        return False
    beside = [length for axis, length in enumerate(tensor.shape) if axis != out_axis]
    return (tensor.shape[in_axis] == 1) if in_axis is not None else 1 in beside


PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

_LEAST = 1e-12


class _SamplesData(BaseModel):
    """Schema of the timed cuts as JSON."""

    terms: list[
        Annotated[tuple[FiniteNumber, ...], Field(min_length=len(TERMS), max_length=len(TERMS))]
    ]
    macs: list[list[FiniteNumber]]
    ratios: list[PositiveNumber]
    noise: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _LatencyData(BaseModel):
    """Schema of a latency model as JSON."""

    conditions: dict[str, Any]
    images: Count
    dense_ms: PositiveNumber
    terms: tuple[str, ...]
    samples: _SamplesData
    multiple: Count
    at_multiples: dict[Count, tuple[PositiveNumber, PositiveNumber]]
    by_kind: dict[str, Count]


@dataclass(frozen=True, eq=False)
class Samples:
    """Cuts that were timed beside the dense network; the first entry is the dense network.

    Attributes:
        terms: shape (cuts, terms).
        macs: multiply-accumulates of each layer, shape (cuts, layers).
        ratios: times relative to the dense network's, shape (cuts,).
        noise: relative standard error of each ratio, shape (cuts,).
    """

    terms: Floats
    macs: Floats
    ratios: Floats
    noise: Floats

    @classmethod
    def of_dense(cls, network: Network) -> Samples:
        """Samples that hold the dense network only."""
        terms, macs = _row(WidthTerms(network), network.alive(), ())
        return cls(terms[None], macs[None], np.ones(1), np.zeros(1))

    def __len__(self) -> int:
        return len(self.ratios)

    def with_cut(self, network: Network, cut: Cut, ratio: float, noise: float) -> Samples:
        """Add a cut.

        Args:
            network: the dense network.
            cut: cut of it.
            ratio: its time relative to the dense network's.
            noise: relative standard error of that ratio.
        """
        alive = network.alive(network.removed_by(cut))
        terms, macs = _row(WidthTerms(network), alive, cut.blocks)
        return Samples(
            np.vstack([self.terms, terms]),
            np.vstack([self.macs, macs]),
            np.append(self.ratios, ratio),
            np.append(self.noise, noise),
        )

    def with_ratio(self, place: int, ratio: float, noise: float) -> Samples:
        """Replace the timing of one cut."""
        ratios, noises = self.ratios.copy(), self.noise.copy()
        ratios[place], noises[place] = ratio, noise
        return replace(self, ratios=ratios, noise=noises)

    def to_plain(self) -> dict[str, Any]:
        """The samples as lists of numbers."""
        return {name: getattr(self, name).tolist() for name in ("terms", "macs", "ratios", "noise")}


def _row(
    terms: WidthTerms, alive: NDArray[np.bool_], blocks: Sequence[BlockCut]
) -> tuple[Floats, Floats]:
    out, into, macs, there = terms.sizes(alive, blocks)
    return terms.sum(out, into, macs, there), macs * there


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the milliseconds of any cut of one network, under given conditions.

    Attributes:
        conditions: runtime, batch, threads, data type, device.
        images: examples per call.
        dense_ms: median time of the dense network.
        costs: milliseconds for each of ``TERMS``.
        errors: relative errors of the fit, each cut left out in turn.
        multiple: number that widths are best kept multiples of: the smallest within a twentieth of
            the fastest, in time per multiply-accumulate.
        at_multiples: multiple -> (time, MACs) of the network cut to half of its MACs, or the
            nearest possible, at widths of that multiple; both relative to the dense network's.
        by_kind: kind of group -> multiple of its widths, where a smaller one suffices.
        residuals: correction near cuts that were timed; None if unknown.
        samples: the cuts that it is fitted to; None if it was not fitted.
    """

    conditions: Conditions
    images: int
    dense_ms: float
    costs: tuple[float, ...]
    errors: tuple[float, ...]
    multiple: int
    at_multiples: Mapping[int, tuple[float, float]]
    by_kind: Mapping[str, int] = field(default_factory=dict)
    residuals: Residuals | None = field(default=None, compare=False)
    samples: Samples | None = field(default=None, compare=False)

    @classmethod
    def fit(
        cls,
        conditions: Conditions,
        images: int,
        dense_ms: float,
        samples: Samples,
        multiple: int = 1,
        at_multiples: Mapping[int, tuple[float, float]] | None = None,
        by_kind: Mapping[str, int] | None = None,
    ) -> LatencyModel:
        """Fit to timed cuts; the other arguments are attributes."""
        costs, residuals, errors = fit(samples)
        return cls(
            conditions,
            images,
            dense_ms,
            tuple((dense_ms * costs).tolist()),
            tuple(errors.tolist()),
            multiple,
            at_multiples or {},
            by_kind or {},
            residuals,
            samples,
        )

    def learn(self, network: Network, cut: Cut, ratio: float, noise: float) -> LatencyModel:
        """Refit with one more cut; a model that was not fitted is returned as it is.

        Args:
            network: the dense network.
            cut: the cut that was timed.
            ratio: its time relative to the dense network's.
            noise: relative standard error of that ratio.
        """
        if self.samples is None:
            return self
        return LatencyModel.fit(
            self.conditions,
            self.images,
            self.dense_ms,
            self.samples.with_cut(network, cut, ratio, noise),
            self.multiple,
            self.at_multiples,
            self.by_kind,
        )

    def multiple_for(self, kind: str) -> int:
        """Number that the widths of a kind of group are best kept multiples of."""
        return self.by_kind.get(kind, self.multiple)

    def milliseconds(self, terms: Floats, macs: Floats) -> Floats:
        """Predict the milliseconds of a pass.

        Args:
            terms: terms summed over layers, shape (..., terms).
            macs: multiply-accumulates of each layer, shape (..., layers).
        """
        found: Floats = terms @ np.array(self.costs)
        return found if self.residuals is None else found * self.residuals.factor(macs)

    def predictor(self, network: Network) -> Callable[..., float]:
        """A function (mask of kept atoms, removed blocks=()) -> milliseconds of a pass."""
        terms = WidthTerms(network)
        return lambda alive, blocks=(): float(self.milliseconds(*_row(terms, alive, blocks)))

    def doubt(
        self, network: Network, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()
    ) -> float:
        """Relative standard deviation of the prediction for a cut.

        Args:
            network: the dense network, or what a cut left of it.
            alive: mask of the kept atoms, shape (atoms,).
            blocks: residual blocks removed whole.
        """
        if self.residuals is None:
            return self.median_error
        return float(self.residuals.doubt(_row(WidthTerms(network), alive, blocks)[1]))

    @property
    def median_error(self) -> float:
        """Median relative error over the cuts, each left out of the fit."""
        return float(np.median(np.abs(self.errors)))

    @property
    def largest_error(self) -> float:
        """Largest relative error over the cuts, each left out of the fit."""
        return float(np.max(np.abs(self.errors)))

    def __str__(self) -> str:
        parts = [
            f"{self.conditions}: {self.dense_ms:.3g} ms dense "
            f"({self.images * 1000 / self.dense_ms:.4g} a second)",
            f"a cut is predicted within {self.median_error:.1%} (median) and "
            f"{self.largest_error:.1%} (worst of {len(self.errors)} cuts, leave-one-out)",
            "times as fast as dense: "
            + ", ".join(
                f"{1 / time:.2f} {_at(m)} ({1 / macs:.1f} times fewer MACs)"
                for m, (time, macs) in sorted(self.at_multiples.items())
            )
            + f"; widths are kept at multiples of {self.multiple}"
            + "".join(f", {kind} of {m}" for kind, m in sorted(self.by_kind.items())),
        ]
        parts += [
            f"a cut {_at(m)} is not faster than the dense model here"
            for m, (time, _) in sorted(self.at_multiples.items())
            if time >= 1
        ]
        return "\n".join(parts)

    def to_json(self) -> str:
        """JSON text that ``from_json`` reads.

        Raises:
            MeasurementError: the model was not fitted.
        """
        if self.samples is None:
            raise MeasurementError("expected a fitted latency model; received only costs")
        plain = {
            "conditions": self.conditions.to_plain(),
            "images": self.images,
            "dense_ms": self.dense_ms,
            "terms": TERMS,
            "samples": self.samples.to_plain(),
            "multiple": self.multiple,
            "at_multiples": {str(m): both for m, both in self.at_multiples.items()},
            "by_kind": dict(self.by_kind),
        }
        return json.dumps(plain) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """Read what ``to_json`` wrote.

        Raises:
            MeasurementError: the text is something else, or has other terms.
        """
        try:
            plain = _LatencyData.model_validate(json.loads(text))
            if plain.terms != TERMS:
                raise ValueError(f"terms: expected {TERMS}")
            conditions = Conditions(**plain.conditions)
            samples = Samples(
                *(np.array(getattr(plain.samples, f.name), np.float64) for f in fields(Samples))
            )
            if len({len(samples.terms), len(samples.macs), len(samples), len(samples.noise)}) != 1:
                raise ValueError("samples: expected equally many of each")
            settled = (plain.multiple, plain.at_multiples, plain.by_kind)
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                return cls.fit(conditions, plain.images, plain.dense_ms, samples, *settled)
        # Numbers that no machine measures overflow, or cannot be fitted (scipy's RuntimeError).
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise MeasurementError(
                f"expected a latency model as this version writes it; received something else "
                f"({in_one_line(error)}). Measure it again: sec.profile(model, x, fresh=True)."
            ) from error


def _at(multiple: int) -> str:
    return "at any width" if multiple == 1 else f"at multiples of {multiple}"


def fit(samples: Samples) -> tuple[Floats, Residuals, Floats]:
    """Fit a latency model: (cost of each term, residuals, leave-one-out relative errors).

    Costs are in units of the dense network's time.

    Args:
        samples: at least one.
    """
    terms, times = samples.terms, samples.ratios
    costs = _solve(terms, times)
    residuals = _residuals_of(samples, costs)
    errors = np.empty(len(times))
    for place in range(len(times)):
        others = np.arange(len(times)) != place
        without = _solve(terms[others], times[others])
        off = np.log(times / np.maximum(terms @ without, _LEAST))
        rest = replace(residuals, off=off).without(place)
        predicted = terms[place] @ without * rest.factor(samples.macs[place])
        errors[place] = predicted / times[place] - 1
    return costs, residuals, errors


def _residuals_of(samples: Samples, costs: Floats) -> Residuals:
    off = np.log(samples.ratios / np.maximum(samples.terms @ costs, _LEAST))
    shares = samples.macs[0] / max(1.0, samples.macs[0].sum())
    # Square roots, so that many small layers still count beside a large one.
    shares = np.sqrt(shares) / max(np.sqrt(shares).sum(), _LEAST)
    return Residuals.fit(samples.macs, shares, off, samples.noise)


def _solve(terms: Floats, times: Floats) -> Floats:
    """Non-negative costs that minimise the relative errors."""
    scale = np.maximum(terms.max(axis=0), 1e-300)
    costs, _ = nnls(terms / scale / times[:, None], np.ones(len(times)))
    found: Floats = costs / scale
    return found
