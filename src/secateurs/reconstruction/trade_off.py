"""The trade-off curve: cuts at a dozen budgets, repaired and judged.

Orders, curves and sums are computed once; a budget then takes seconds. A larger budget never does
worse than a smaller one: where the smaller one's model is more faithful, it is used for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.backends import backend_named
from secateurs.calibration.batches import CalibrationBatch
from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut
from secateurs.channels.proof import report_of
from secateurs.errors import BudgetError, SecateursError, UnknownNameError, nearest
from secateurs.formatting import megabytes, percent
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.speed import latency
from secateurs.planning.planner import Budget
from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.pruner import Distilling, Pruner
from secateurs.reconstruction.session import DenseReference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.9, 0.75, 0.6, 0.5, 0.4, 0.33, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Default shares of the dense model's cost: a dozen, in steps of about a quarter."""

DENSE = "dense"

TIMINGS, SECONDS_A_TIMING = 7, 0.02
"""Timing of each model: the median of this many measurements of this many seconds."""


@dataclass(frozen=True, eq=False, slots=True)
class Point:
    """One budget and the model within it.

    Attributes:
        name: name such as 'macs=0.25'; ``dense`` is the dense model.
        model: the most faithful model within the budget.
        cut: what was removed.
        cost: what is left: parameters, MACs, bytes of weights.
        share: share of the dense model's cost in the unit of the budget.
        fidelity: fidelity to the dense model, on images that were not fitted.
        accuracy: accuracy on those images, if their labels are classes; else None.
        milliseconds: time of one call on the example inputs; NaN if it was not measured.
    """

    name: str
    model: Any
    cut: Cut
    cost: Cost
    share: float
    fidelity: Fidelity
    accuracy: float | None = None
    milliseconds: float = float("nan")

    @property
    def quality(self) -> float:
        """Accuracy, else agreement with the dense model, else one minus the relative error."""
        if self.accuracy is not None:
            return self.accuracy
        if self.fidelity.agreement is not None:
            return self.fidelity.agreement
        return max(0.0, 1 - self.fidelity.distance)


@dataclass(frozen=True, eq=False)
class Frontier:
    """The best model found at each of some budgets, the dense one first, then by falling cost.

    Attributes:
        points: the points, by falling cost.
        unit: unit of the budgets.
        knee: name of the point beyond which quality falls fastest for what is saved.
    """

    points: tuple[Point, ...]
    unit: str
    knee: str

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, name: str) -> Point:
        for point in self.points:
            if point.name == name:
                return point
        raise UnknownNameError(
            f"no point named {name!r}{nearest(name, [point.name for point in self.points])}"
        )

    def model(self, wanted: str | Point) -> Any:
        """The model of a point, given the point or its name.

        Raises:
            UnknownNameError: there is no such point.
        """
        return wanted.model if isinstance(wanted, Point) else self[wanted].model

    @property
    def measure(self) -> str:
        """Name of the quality measure, for headings."""
        first = self.points[-1]
        if first.accuracy is not None:
            return "accuracy"
        return "agreement" if first.fidelity.agreement is not None else "1 - relative error"

    def __str__(self) -> str:
        timed = not all(np.isnan(point.milliseconds) for point in self.points)
        rows = [
            (
                f"{point.name}{' *' if point.name == self.knee else ''}",
                percent(point.quality),
                f"{point.fidelity.distance:.4g}",
                formatting.count(point.cost.macs),
                formatting.count(point.cost.params),
                megabytes(point.cost.bytes),
                *((f"{point.milliseconds:.2f}",) if timed else ()),
            )
            for point in self.points
        ]
        kind = "rel. error" if self.points[0].fidelity.kind == "relative" else "KL to dense"
        columns = ["point", self.measure, kind, "MACs", "parameters", "weights"]
        columns += ["ms a call"] if timed else []
        table = formatting.table(columns, rows, tuple(range(1, len(columns))))
        judged = self.points[0].fidelity.images
        return f"{table}\n\n* is the knee. Evaluated on {judged} held-out images."

    def figure(self) -> Figure:
        """Plot quality over the remaining cost, with the knee marked."""
        from secateurs import report

        return report.trade_off(
            [point.share for point in self.points],
            [point.quality for point in self.points],
            [point.name for point in self.points],
            knee=self.knee,
            unit=self.unit,
            measure=self.measure,
        )


def find_frontier(
    pruner: Pruner,
    *,
    unit: str = "macs",
    shares: Sequence[float] = SHARES,
    distil: Distilling | None = None,
    **planning: Any,
) -> Frontier:
    """Cut, repair and judge at each budget, the smallest first.

    Args:
        pruner: a pruner with its curves.
        unit: unit of the budgets: channels, params, macs or size_mb.
        shares: shares of the dense model's cost, each in (0, 1).
        distil: how long to distil each model; None does not.
        **planning: floor, multiple, skip.

    Raises:
        BudgetError: a share is out of range, or no cut within the floors meets any of them.
    """
    wanted = sorted(set(shares))
    if not wanted or not all(0 < share < 1 for share in wanted):
        raise BudgetError(f"frontier: expected shares in (0, 1); received {list(shares)}")
    points: list[Point] = []
    refused: BudgetError | None = None
    for share in wanted:
        budget = Budget.of({unit: share})
        try:
            cut = pruner.plan(budget, **planning)
        except BudgetError as error:
            refused = error
            continue
        model = pruner.make(cut, distil=distil)
        points.append(choose_better(_point(pruner, f"{unit}={share:g}", unit, model, cut), points))
    if not points and refused is not None:
        raise refused
    whole = _point(pruner, DENSE, unit, pruner.model, Cut())
    points = _time(pruner, [whole, *reversed(points)])
    return Frontier(tuple(points), unit, knee_of(points))


def _time(pruner: Pruner, points: Sequence[Point]) -> list[Point]:
    """Add the time of one call on the example inputs to the points, measured interleaved.

    A model that is at several points is timed once.
    """
    source: Any = pruner.network.source
    backend = backend_named(source.framework)
    models = {id(point.model): point.model for point in points}
    try:
        runs = {
            str(number): backend.runner(model, source.example_inputs, Conditions())
            for number, model in models.items()
        }
    except SecateursError:  # some models can be called by their own code only
        return list(points)
    taken = latency(runs, repeats=TIMINGS, seconds=SECONDS_A_TIMING)
    return [replace(point, milliseconds=taken[str(id(point.model))].median) for point in points]


def _point(pruner: Pruner, name: str, unit: str, model: Any, cut: Cut) -> Point:
    network, dense = pruner.network, pruner.dense
    cost, whole = network.cost(cut), network.cost()
    field = "bytes" if unit == "size_mb" else unit
    share = getattr(cost, field) / max(1, getattr(whole, field))
    known = report_of(model).fidelity
    fidelity = dense.fidelity(model) if known is None or not cut else known.fidelity
    return Point(name, model, cut, cost, share, fidelity, _accuracy(dense, model))


def choose_better(point: Point, smaller: Sequence[Point]) -> Point:
    """The point, or a smaller budget's model under its name, if that is more faithful."""
    if smaller and smaller[-1].fidelity.distance < point.fidelity.distance:
        return replace(smaller[-1], name=point.name)
    return point


def _accuracy(dense: DenseReference, model: Any) -> float | None:
    """Accuracy on the images for judging, if their labels are classes; else None."""
    if dense.kind != "categorical":
        return None
    right = counted = 0
    for batch, found in zip(dense.judge, dense.framework.outputs(model, dense.judge), strict=True):
        if not _are_classes(batch, found[0]):
            return None
        right += int((found[0].argmax(1) == batch.labels).sum())
        counted += len(batch)
    return right / counted


def _are_classes(batch: CalibrationBatch, scores: NDArray[Any]) -> bool:
    labels = batch.labels
    return (
        labels is not None
        and labels.ndim == 1
        and labels.dtype.kind in "iu"
        and scores.ndim == 2
        and int(labels.min()) >= 0
        and int(labels.max()) < scores.shape[1]
    )


def knee_of(points: Sequence[Point]) -> str:
    """Name of the point furthest above the straight line between the largest and the smallest.

    Both axes are scaled to [0, 1], cost after its logarithm, so that a halving counts equally
    everywhere.

    Source: Satopaa et al., *Finding a "Kneedle" in a Haystack*, ICDCS workshops 2011.
    """
    cost = np.log([max(point.share, 1e-9) for point in points])
    quality = np.array([point.quality for point in points])
    spans = np.ptp(cost), np.ptp(quality)
    if len(points) < 3 or not all(spans):
        return points[-1].name
    height = (quality - quality.min()) / spans[1] - (cost - cost.min()) / spans[0]
    return points[int(height.argmax())].name
