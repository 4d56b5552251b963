"""How long any cut of a network will take, before it is made: a model fitted to measured cuts.

A layer's time is taken to be a sum of terms that follow its widths: its multiply-accumulates, as
they are and as they are with its widths filled up to the width of a vector; the numbers it writes
and reads; its weights, which a batch of one reads but once. Depthwise layers have terms of their
own, and once more where their width is no multiple of 4, 8 or 16: runtimes that keep channels in
blocks fall off their fast path there. What a term costs on this machine, in this runtime, is found
by timing some dozen real cuts of the network and a fit by non-negative least squares. What that is
off by is carried over to cuts that are like those (``residuals``). How far off the model is is
found by leaving each cut out in turn.
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
"""Channels that a vector of today's processors holds (float32, AVX-512), or two of the half."""

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
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One contraction, by which its terms are found.

    Attributes:
        name: of the layer.
        positions: multiply-accumulates for each number in the weight, or 0 for one without weights.
        kernel: numbers of the weight for each pair of channels.
        outputs: (units along its output axis), None where it keeps its length.
        inputs: the same of its input axis.
        lengths: of both axes, dense.
        is_depthwise: whether each channel is only of itself.
        constant: of its multiply-accumulates, and ``axes`` the units that they follow.
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
    """The terms of a network's time, for any choice of atoms that stay.

    Attributes:
        layers: of which they are summed.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.layers = [_layer_of(network, number) for number in range(len(network.contractions))]
        self._positions = np.array([layer.positions for layer in self.layers], np.float64)
        is_weighted = self._positions > 0
        is_depthwise = np.array([layer.is_depthwise for layer in self.layers], bool)
        is_point = np.array([layer.kernel == 1 for layer in self.layers], bool)
        self._dense = is_weighted & ~is_depthwise
        self._depthwise = is_weighted & is_depthwise
        # A product of activations (attention) has no kernel.
        self._point = ~is_weighted | (self._dense & is_point)
        self._kernel = self._dense & ~is_point

    def of(self, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()) -> NDArray[np.float64]:
        """The terms, summed over layers but those of blocks that go; shape (``TERMS``,)."""
        return self.sum(*self.sizes(alive, blocks))

    def sizes(
        self, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Of each layer what ``sum`` takes: outputs, inputs, MACs, whether it is there."""
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
        """The terms, summed over the layers; shape (..., ``TERMS``).

        Args:
            out: length of each layer's output axis; shape (..., layers), as all others.
            into: of its input axis.
            macs: its multiply-accumulates.
            there: 1 for each layer that is there, 0 for one that has gone with its block.
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
        return Layer(name, 0.0, 1, None, None, (1, 1), False, product.constant, axes)
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
    """The tensor that a contraction multiplies with: of its layer, along the same axes."""
    wanted = {id(axis) for axis in axes}
    of_layer = [t for t in network.tensors.values() if t.layer == layer and len(t.shape) > 1]
    fitting = [t for t in of_layer if {id(a) for a in t.axes.values()} <= wanted or not wanted]
    return max(fitting or of_layer, key=lambda t: len(t.axes), default=None)


def _axis(tensor: Tensor, role: Role) -> int | None:
    return next((axis for axis, played in tensor.roles.items() if played is role), None)


def is_depthwise(network: Network, tensor: Tensor) -> bool:
    """Whether a tensor is the weight of a convolution that keeps every channel to itself.

    The first convolution of images in grey has such a weight too, and is none.
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
    """The cuts that were timed, as JSON."""

    terms: list[
        Annotated[tuple[FiniteNumber, ...], Field(min_length=len(TERMS), max_length=len(TERMS))]
    ]
    macs: list[list[FiniteNumber]]
    ratios: list[PositiveNumber]
    noise: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _LatencyData(BaseModel):
    """What a latency model is as JSON."""

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
    """Cuts that were timed beside the dense network; the first is the dense network itself.

    Attributes:
        terms: shape (cuts, number of ``TERMS``).
        macs: of each layer; shape (cuts, layers).
        ratios: of times to the dense network's; shape (cuts,).
        noise: standard error of each, relative to it; shape (cuts,).
    """

    terms: Floats
    macs: Floats
    ratios: Floats
    noise: Floats

    @classmethod
    def of_dense(cls, network: Network) -> Samples:
        """Of the dense network alone."""
        terms, macs = _row(WidthTerms(network), network.alive(), ())
        return cls(terms[None], macs[None], np.ones(1), np.zeros(1))

    def __len__(self) -> int:
        return len(self.ratios)

    def with_cut(self, network: Network, cut: Cut, ratio: float, noise: float) -> Samples:
        """These and one more.

        Args:
            network: the dense one.
            cut: of it.
            ratio: of its time to the dense network's.
            noise: standard error of that, relative to it.
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
        """These, one of them timed again."""
        ratios, noises = self.ratios.copy(), self.noise.copy()
        ratios[place], noises[place] = ratio, noise
        return replace(self, ratios=ratios, noise=noises)

    def to_plain(self) -> dict[str, Any]:
        """As lists of numbers."""
        return {name: getattr(self, name).tolist() for name in ("terms", "macs", "ratios", "noise")}


def _row(
    terms: WidthTerms, alive: NDArray[np.bool_], blocks: Sequence[BlockCut]
) -> tuple[Floats, Floats]:
    out, into, macs, there = terms.sizes(alive, blocks)
    return terms.sum(out, into, macs, there), macs * there


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of any cut of one network, under the conditions it was fitted for.

    Attributes:
        conditions: runtime, batch, threads, number type, device.
        images: examples a call.
        dense_ms: what the dense network took: the median.
        costs: milliseconds of each of ``TERMS``.
        errors: relative errors of the fit, each cut left out in turn.
        multiple: of channels, that widths are best kept multiples of: the smallest within a
            twentieth of the fastest, by time for each multiply-accumulate.
        at_multiples: multiple -> (time, MACs) of the network cut to half of its MACs, or as near as
            it comes, at widths of that multiple; both relative to the dense network's.
        by_kind: kind of group -> the multiple of its widths, where a smaller one was found to do.
        residuals: what the sum of terms is off by, near cuts that were timed; None: unknown.
        samples: the cuts that it is fitted to; None where it was not fitted.
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
        """Of cuts that were timed; the other arguments are attributes."""
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
        """The model fitted to one more cut; itself where it was not fitted to any.

        Args:
            network: the dense one that it is of.
            cut: that was timed.
            ratio: of its time to the dense network's.
            noise: standard error of that, relative to it.
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
        """Of what the widths of a kind of group are best kept multiples."""
        return self.by_kind.get(kind, self.multiple)

    def milliseconds(self, terms: Floats, macs: Floats) -> Floats:
        """Of a pass.

        Args:
            terms: summed over layers; shape (..., number of ``TERMS``).
            macs: of each layer; shape (..., layers).
        """
        found: Floats = terms @ np.array(self.costs)
        return found if self.residuals is None else found * self.residuals.factor(macs)

    def predictor(self, network: Network) -> Callable[..., float]:
        """(atoms that stay, blocks that go whole: none) -> milliseconds of a pass."""
        terms = WidthTerms(network)
        return lambda alive, blocks=(): float(self.milliseconds(*_row(terms, alive, blocks)))

    def doubt(
        self, network: Network, alive: NDArray[np.bool_], blocks: Sequence[BlockCut] = ()
    ) -> float:
        """How far off the prediction of a cut may be, one standard deviation, relative to it.

        Args:
            network: the dense one, or what is left of it.
            alive: atoms that stay.
            blocks: residual blocks that go whole.
        """
        if self.residuals is None:
            return self.median_error
        return float(self.residuals.doubt(_row(WidthTerms(network), alive, blocks)[1]))

    @property
    def median_error(self) -> float:
        """Half of the cuts, left out, were predicted nearer than this, relative to their time."""
        return float(np.median(np.abs(self.errors)))

    @property
    def largest_error(self) -> float:
        """The error of the cut that was predicted worst."""
        return float(np.max(np.abs(self.errors)))

    def __str__(self) -> str:
        parts = [
            f"{self.conditions}: {self.dense_ms:.3g} ms dense "
            f"({self.images * 1000 / self.dense_ms:.4g} a second)",
            f"a cut is predicted within {self.median_error:.1%} (median) and "
            f"{self.largest_error:.1%} (worst of {len(self.errors)} cuts, each left out)",
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
        """As text that ``from_json`` reads.

        Raises:
            MeasurementError: the model was not fitted to anything.
        """
        if self.samples is None:
            raise MeasurementError("expected a latency model that was fitted; received costs alone")
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
            MeasurementError: it is something else, or of other terms.
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
                raise ValueError("samples: expected as many of each")
            settled = (plain.multiple, plain.at_multiples, plain.by_kind)
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                return cls.fit(conditions, plain.images, plain.dense_ms, samples, *settled)
        # Numbers that no machine measures overflow, or have no fit (scipy's RuntimeError).
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise MeasurementError(
                f"expected a latency model as this version writes it; received something else "
                f"({in_one_line(error)}). Measure it again: sec.profile(model, x, fresh=True)."
            ) from error


def _at(multiple: int) -> str:
    return "at any width" if multiple == 1 else f"at multiples of {multiple}"


def fit(samples: Samples) -> tuple[Floats, Residuals, Floats]:
    """(cost of each term, what that leaves, relative error of each cut when it is left out).

    Costs are in times that the dense network takes.

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
    # By their roots, so that many small layers are not lost beside one that is large.
    shares = np.sqrt(shares) / max(np.sqrt(shares).sum(), _LEAST)
    return Residuals.fit(samples.macs, shares, off, samples.noise)


def _solve(terms: Floats, times: Floats) -> Floats:
    """Costs of at least 0 by which the relative errors are least."""
    scale = np.maximum(terms.max(axis=0), 1e-300)
    costs, _ = nnls(terms / scale / times[:, None], np.ones(len(times)))
    found: Floats = costs / scale
    return found
