"""Evidence about a cut: its proof, its report, and where a model keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import MODEL, takes
from secateurs.channels.cut import Cut
from secateurs.channels.tensors import Mixing, layer_of
from secateurs.formatting import notebook_html

if TYPE_CHECKING:
    from secateurs.reconstruction.report import FidelityReport

Model = TypeVar("Model")

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference that rounding explains, relative to the largest output, by the dtype in which
a model computes."""


@dataclass(frozen=True, slots=True)
class Independent:
    """Result of the independent proof (``proof="independent"``), which uses no tracing rules.

    The small model is compared with the dense one in which the weights that read the removed
    channels are zero; nothing else in the dense model may depend on these channels.

    Attributes:
        channels: number of removed channels that it covers: those that no operation mixes; 0 for
            whole blocks.
        max_difference: largest absolute difference of the outputs.
        scale: largest absolute output.
        tolerance: largest difference that rounding explains.
        unheard: layers whose channels do not affect the outputs on these inputs even while they
            are read; for them the proof says nothing.
    """

    channels: int
    max_difference: float
    scale: float
    tolerance: float
    unheard: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {self.channels} channels" if self.channels else ""
        zero = "their readers" if self.channels else "all weights that go"
        shown = (
            f"independent proof{of}: largest difference {self.max_difference:.2g} (tolerance "
            f"{self.tolerance:.2g}) from the dense model with {zero} at zero"
        )
        if self.unheard:
            more = ", ..." if len(self.unheard) > 3 else ""
            shown += (
                "; not tested, as they do not affect the outputs for these inputs: "
                f"{', '.join(self.unheard[:3])}{more}"
            )
        return shown


@dataclass(frozen=True, slots=True)
class Proof:
    """Comparison of the small model with the masked twin of the dense one, on the same inputs.

    Attributes:
        max_difference: largest absolute difference over all outputs.
        scale: largest absolute output of the twin, as a reference for the difference.
        tolerance: largest difference that rounding explains; beyond it the cut is refused.
        inside: largest difference of values sampled from the results of all operations, relative
            to the largest value of that operation. It proves the cut where the output hardly
            depends on the weights.
        inside_tolerance: largest such difference that rounding explains.
        layer: layer in which ``inside`` was found.
        inexact: operations that mix channels. There the twin mixes the kept channels only, so the
            proof holds for the surgery, but the dense model itself would have mixed all of them.
        independent: the independent proof, if it was requested.
        images: "96 x 96 of 224 x 224" where only the middle of large images was run: every
            operation was the one that was traced, and which channel goes where does not depend on
            the number of pixels. "" where the example inputs were run as they are.
        blocks: proof of the removal of whole blocks, where these were removed first.
        is_inside_only: whether the models give nothing for these inputs without the channels (a
            detector finds no box any more), so that only values inside were compared.
    """

    max_difference: float
    scale: float
    tolerance: float
    inside: float = 0.0
    inside_tolerance: float = 1e-3
    layer: str = ""
    inexact: tuple[str, ...] = ()
    independent: Independent | None = None
    images: str = ""
    blocks: Proof | None = None
    is_inside_only: bool = False

    @property
    def holds(self) -> bool:
        """Whether rounding explains the differences."""
        here = self.max_difference <= self.tolerance and self.inside <= self.inside_tolerance
        return here and (self.blocks is None or self.blocks.holds)

    def refusal(self, network: str, subject: str) -> str:
        """The error message for a cut that was not made.

        Args:
            network: name of the network.
            subject: 'A layer' or 'An operation': what the framework has rules for.
        """
        return (
            f"{network}: the cut model does not do what the dense one does without these "
            f"channels: expected a largest difference of {self.tolerance:.2g} or less, received "
            f"{self.max_difference:.2g} (largest output {self.scale:.3g}); the largest difference "
            f"inside is in {self.layer or 'the model'} ({self.inside:.2g} relative to the values "
            f"compared). The cut was not made. {subject} there behaves differently from its rule: "
            "leave its channels out of the cut, and please report it."
        )

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        shown = (
            f"proof {verdict}: largest difference {self.max_difference:.2g} (tolerance "
            f"{self.tolerance:.2g}, largest output {self.scale:.3g}); inside {self.inside:.2g} "
            "relative to the values compared"
        )
        if self.images:
            shown += f"; run on the centre {self.images} pixels"
        if self.is_inside_only:
            shown += "; the outputs are empty without these channels, so values inside are compared"
        if self.inexact:
            shown += f"; exact except for {', '.join(self.inexact)}"
        if self.independent is not None:
            shown += f"; {self.independent}"
        return shown if self.blocks is None else f"{shown}\nof the blocks, {self.blocks}"


def inexact_operations(mixings: Iterable[Mixing], stays: NDArray[np.bool_]) -> tuple[str, ...]:
    """Operations that mix channels of which some are removed, each once.

    Args:
        mixings: mixings of the network.
        stays: mask of the kept units, shape (units,).
    """
    found = (str(mixing) for mixing in mixings if not stays[mixing.units].all())
    return tuple(dict.fromkeys(found))


def finite_or_inf(number: float) -> float:
    """Map NaN to infinity, because NaN would pass every ``difference > tolerance`` check."""
    return math.inf if math.isnan(number) else float(number)


def largest_mismatch(
    layers: Sequence[str],
    received: Sequence[NDArray[np.number]],
    expected: Sequence[NDArray[np.number]],
    tolerance: float,
    factors: Sequence[float] = (1.0,),
) -> tuple[float, str]:
    """The largest difference between samples of two models' operations, and where it begins.

    Args:
        layers: layer of each operation.
        received: samples from the small model, one 1-D array of at least one value per operation.
        expected: samples from the twin, of the same lengths.
        tolerance: what rounding explains, relative to the largest of the operation's samples.
        factors: a sample may differ by any of these factors. Between rescaled weights and the
            factor that they compensate for, values differ by just that.

    Returns:
        (largest difference of an operation's samples relative to their size, layer of the first
        operation beyond the tolerance, or else of the largest difference).
    """
    if not layers:
        return 0.0, ""
    sizes = np.array([len(samples) for samples in expected])
    starts = np.flatnonzero(np.diff(sizes.cumsum() // _AT_A_TIME, prepend=-1)).tolist()
    ends = [*starts[1:], len(sizes)]
    relative = np.concatenate(
        [
            _mismatches(received[start:end], expected[start:end], factors)
            for start, end in zip(starts, ends, strict=True)
        ]
    )
    beyond = np.flatnonzero(relative > tolerance)
    first = int(beyond[0]) if len(beyond) else int(relative.argmax())
    return float(relative.max()), layers[first] if relative[first] > 0 else ""


_AT_A_TIME = 2**13
"""Samples compared at a time: arrays of all would take a tenth of a small model's memory."""


def _mismatches(
    received: Sequence[NDArray[np.number]],
    expected: Sequence[NDArray[np.number]],
    factors: Sequence[float],
) -> NDArray[np.float64]:
    """For each operation the largest difference of its samples, relative to their size."""
    starts = np.cumsum([0, *(len(samples) for samples in expected[:-1])])
    mine, theirs = np.concatenate(received), np.concatenate(expected)
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        gaps = np.min([np.abs(mine - factor * theirs) for factor in factors], axis=0)
    gaps = np.where(same, 0.0, np.where(np.isnan(gaps), np.inf, gaps))
    gap = np.maximum.reduceat(gaps, starts)
    size = np.maximum.reduceat(np.where(np.isfinite(theirs), np.abs(theirs), 0.0), starts)
    relative: NDArray[np.float64] = np.divide(gap, size, out=gap.copy(), where=size > 0)
    return relative


@dataclass(frozen=True, slots=True)
class CutReport:
    """What was removed from a model, and the proof; ``secateurs.report_of`` returns it.

    Attributes:
        cut: everything removed since the dense model, all cuts composed.
        proof: proof of the last cut; None if it was skipped.
        fidelity: distance from the dense model, step by step; None where there were no
            calibration images to measure it on.
    """

    cut: Cut
    proof: Proof | None = None
    fidelity: FidelityReport | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> CutReport:
        """Return the report itself: it is immutable, and models are copied several times a cut."""
        del memo
        return self

    @classmethod
    def after(cls, model: object, cut: Cut, proof: Proof | None) -> CutReport:
        """The report of what this cut leaves of a model, which may have been cut before."""
        return cls(report_of(model).cut.then(cut), proof)

    @property
    def max_difference(self) -> float:
        """Largest difference in the proof; NaN if the proof was skipped."""
        return float("nan") if self.proof is None else self.proof.max_difference

    @property
    def params_removed(self) -> float:
        """Share of the parameters that were removed."""
        if self.cut.before is None or self.cut.after is None:
            return float("nan")
        return 1 - self.cut.after.params / self.cut.before.params

    def _repr_html_(self) -> str:
        """For notebooks."""
        return notebook_html(self)

    def __str__(self) -> str:
        lines = [self.cut.summary(), *([str(self.proof)] if self.proof else ["not proven"])]
        if self.fidelity is not None:
            lines += ["", str(self.fidelity)]
        return "\n".join(lines)


# Stored under one private name in the small model's ``__dict__``, never through ``__setattr__``: a
# layer or method of the user's called ``report`` stays intact, and the evidence is copied with the
# model into a deep copy, a pickle or a spawned worker.
_ATTRIBUTE = "_secateurs_report"

# Stored on each cut layer too, for models rebuilt from the layers alone (torch.fx keeps these).
_MARK = "_secateurs_part"


@dataclass(frozen=True, slots=True)
class _Mark:
    """The model that a layer is part of.

    Attributes:
        report: report of the whole model.
        path: path of the layer in it.
        layers: number of layers that carry this mark.
    """

    report: CutReport
    path: str
    layers: int

    def __deepcopy__(self, memo: dict[int, object]) -> _Mark:
        """Return the mark itself: it is immutable, as the report is."""
        del memo
        return self


WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Class name of a wrapper around a PyTorch model -> the child that holds the model itself."""


@takes(model=MODEL)
def report_of(model: object) -> CutReport:
    """Report what was removed from a model that this library made, and the proof.

    Args:
        model: a model from ``apply``, ``delete_channels``, ``prune`` or ``load``, or a copy of it;
            it may be wrapped by ``torch.compile``, DataParallel and the like.

    Returns:
        The evidence; for a model that nothing was removed from, a report of an empty cut.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> small = sec.prune(model, torch.zeros(1, 4), amount=0.5).model
        >>> sec.report_of(small).proof.holds
        True
    """
    model = unwrap(model)
    report = getattr(model, "__dict__", {}).get(_ATTRIBUTE)
    if isinstance(report, CutReport):
        return report
    cut = Cut()
    for path, part in [*_parts_with_reports(model), *_parts_by_marks(model)]:
        if not path:
            return part
        cut = cut.then(part.cut.below(path))
    return CutReport(cut)


def unwrap(model: Model) -> Model:
    """The model itself, without wrappers that compile, average or distribute it."""
    for base in type(model).__mro__:
        inside = _children(model).get(WRAPPERS.get(base.__name__, ""))
        if inside is not None:
            return unwrap(cast(Model, inside))
    return model


def _children(model: object) -> dict[str, object]:
    children = getattr(model, "__dict__", {}).get("_modules")
    return children if isinstance(children, dict) else {}


def _parts_with_reports(model: object) -> list[tuple[str, CutReport]]:
    """List the outermost submodules that were cut by themselves, such as a detector's backbone."""
    found: list[tuple[str, CutReport]] = []
    _add_parts(model, "", set(), found)
    return found


def _add_parts(
    model: object, start: str, seen: set[int], found: list[tuple[str, CutReport]]
) -> None:
    for name, child in _children(model).items():
        if id(child) in seen:
            continue
        seen.add(id(child))
        held = getattr(child, "__dict__", _NOTHING)
        report = held.get(_ATTRIBUTE)
        if isinstance(report, CutReport):
            found.append((start + name, report))
        elif held.get("_modules"):
            _add_parts(child, f"{start}{name}.", seen, found)


_NOTHING: dict[str, Any] = {}
"""The attributes of an object that has none."""


def _parts_by_marks(model: object) -> Iterator[tuple[str, CutReport]]:
    """Yield cut models whose layers are all here, although the object that held them is not."""
    found: dict[tuple[int, str], list[_Mark]] = {}
    for path, layer in _layers_without_report(model):
        mark = vars(layer).get(_MARK)
        if isinstance(mark, _Mark) and f".{path}".endswith(f".{mark.path}"):
            above = path[: len(path) - len(mark.path)].removesuffix(".")
            found.setdefault((id(mark.report), above), []).append(mark)
    for (_, above), marks in found.items():
        if len(marks) == marks[0].layers:
            yield above, marks[0].report


def _layers_without_report(model: object) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    _add_layers(model, "", found)
    return found


def _add_layers(model: object, start: str, found: list[tuple[str, object]]) -> None:
    for name, child in _children(model).items():
        held = getattr(child, "__dict__", None)
        if held is not None and _ATTRIBUTE not in held:
            path = start + name
            found.append((path, child))
            if held.get("_modules"):
                _add_layers(child, f"{path}.", found)


def _mark_layers_(model: object, report: CutReport) -> None:
    if hasattr(model, "get_config"):  # Keras, which rebuilds layers from their configurations
        return
    layers = {path: layer for path, layer in _layers_without_report(model) if path}
    names = dict.fromkeys(layer_of(name) for name in report.cut.tensors)
    marked = [path for path in names if path in layers]
    for path in marked:
        vars(layers[path])[_MARK] = _Mark(report, path, len(marked))


def keep_report_(model: object, report: CutReport) -> None:
    """Store the report that ``report_of`` returns for a model made here, and for its parts."""
    vars(model)[_ATTRIBUTE] = report
    _mark_layers_(model, report)
    for path, _ in _parts_with_reports(model):
        part = model
        for name in path.split("."):
            part = _children(part)[name]
        keep_report_(part, CutReport(report.cut.of_part(path)))


def cut_of(model: object) -> Cut:
    """Everything removed from a model; an empty cut if it is dense."""
    return report_of(model).cut
