"""What is known of a cut that was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import MODEL, takes
from secateurs.channels.cut import Cut
from secateurs.channels.tensors import Mixing
from secateurs.formatting import notebook_html

if TYPE_CHECKING:
    from secateurs.reconstruction.report import FidelityReport

Model = TypeVar("Model")

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference that rounding explains, relative to the largest output; by the type that a
model computes with."""


@dataclass(frozen=True, slots=True)
class Independent:
    """What the second proof found, which knows nothing of the rules (``proof="independent"``).

    The small model is held against the dense one in which the weights that read the channels are
    zero; nothing else there may look at them.

    Attributes:
        channels: how many went that could be judged so: those that no operation mixes; 0 of whole
            blocks.
        max_difference: the largest absolute difference of the answers.
        scale: the largest absolute answer.
        tolerance: the largest difference that rounding explains.
        unheard: layers whose channels do not show in the answers to these inputs while they are
            read, either: of them it says nothing.
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
                f"; it says nothing of {', '.join(self.unheard[:3])}{more}, whose channels do not "
                "show in the answers to these inputs"
            )
        return shown


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the small model is from the masked twin of the dense one, on the same inputs.

    Attributes:
        max_difference: the largest absolute difference over all outputs.
        scale: the largest absolute output of the twin, which the difference is to be held against.
        tolerance: the largest difference that rounding explains; beyond it the cut is refused.
        inside: the largest difference of values sampled from every operation's result, relative to
            the largest of that operation's; it proves the cut where the output hardly depends on
            the weights.
        inside_tolerance: the largest such difference that rounding explains.
        layer: where ``inside`` was found.
        inexact: operations that mix channels. There the twin mixes the kept channels only, so the
            proof holds for the surgery, but the dense model itself would have mixed all of them.
        independent: the second proof, where it was asked for.
        images: "96 x 96 of 224 x 224" where only the middle of large images was run: every
            operation was the one that was traced, and which channel goes where does not depend on
            the number of pixels. "" where the example inputs were run as they are.
        blocks: where whole blocks went first, the proof of that.
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

    @property
    def holds(self) -> bool:
        """Whether rounding explains the difference."""
        here = self.max_difference <= self.tolerance and self.inside <= self.inside_tolerance
        return here and (self.blocks is None or self.blocks.holds)

    def refusal(self, network: str, subject: str) -> str:
        """Why a cut was not made.

        Args:
            network: its name.
            subject: 'A layer' or 'An operation': what the framework has rules for.
        """
        return (
            f"{network}: the cut model does not do what the dense one does without these "
            f"channels: expected a largest difference of {self.tolerance:.2g} or less, received "
            f"{self.max_difference:.2g} (largest output {self.scale:.3g}); inside, they come apart "
            f"in {self.layer or 'the model'} (by up to {self.inside:.2g} of the size of what is "
            f"compared). The cut was not made. {subject} there does something else than its rule "
            "says: leave its channels out of the cut, and please report it."
        )

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        shown = (
            f"proof {verdict}: largest difference {self.max_difference:.2g} "
            f"(tolerance {self.tolerance:.2g}, largest output {self.scale:.3g}); "
            f"inside {self.inside:.2g} of the size of what is compared"
        )
        if self.images:
            shown += f"; run on the middle {self.images} pixels"
        if self.inexact:
            shown += f"; exact but for {', '.join(self.inexact)}"
        if self.independent is not None:
            shown += f"; {self.independent}"
        return shown if self.blocks is None else f"{shown}\nof the blocks, {self.blocks}"


def inexact_operations(mixings: Iterable[Mixing], stays: NDArray[np.bool_]) -> tuple[str, ...]:
    """Operations that mix channels of which some go, each once.

    Args:
        mixings: of the network.
        stays: for each unit, whether it does.
    """
    found = (str(mixing) for mixing in mixings if not stays[mixing.units].all())
    return tuple(dict.fromkeys(found))


def finite_or_inf(number: float) -> float:
    """The number; NaN, which no comparison would find too large, counts as infinite."""
    return math.inf if math.isnan(number) else float(number)


def largest_mismatch(
    layers: Sequence[str],
    received: Sequence[NDArray[np.number]],
    expected: Sequence[NDArray[np.number]],
    tolerance: float,
    factors: Sequence[float] = (1.0,),
) -> tuple[float, str]:
    """How far the samples of two models' operations are apart, and where they first come apart.

    Args:
        layers: the layer of each operation.
        received: its samples in the small model, one axis, at least one each.
        expected: as many in the twin.
        tolerance: what rounding explains, relative to the largest of the operation's samples.
        factors: a sample may be off by any of these. Between weights that were rescaled and the
            factor that makes up for it, values are off by just that.

    Returns:
        (largest difference of an operation's samples relative to their size, the layer of the first
        operation beyond the tolerance, or else of the largest difference).
    """
    if not layers:
        return 0.0, ""
    starts = np.cumsum([0, *(len(samples) for samples in expected[:-1])])
    mine, theirs = np.concatenate(received), np.concatenate(expected)
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        gaps = np.min([np.abs(mine - factor * theirs) for factor in factors], axis=0)
    gaps = np.where(same, 0.0, np.where(np.isnan(gaps), np.inf, gaps))
    gap = np.maximum.reduceat(gaps, starts)
    size = np.maximum.reduceat(np.where(np.isfinite(theirs), np.abs(theirs), 0.0), starts)
    relative = np.divide(gap, size, out=gap.copy(), where=size > 0)
    beyond = np.flatnonzero(relative > tolerance)
    first = int(beyond[0]) if len(beyond) else int(relative.argmax())
    return float(relative.max()), layers[first] if relative[first] > 0 else ""


@dataclass(frozen=True, slots=True)
class CutReport:
    """What was removed from a model, and the proof of it; ``secateurs.report_of`` gives it.

    Attributes:
        cut: everything that was removed since the dense model, all cuts in one.
        proof: of the last cut; None if the proof was left out.
        fidelity: how far the model is from the dense one, step by step; None where there were no
            calibration images to tell by.
    """

    cut: Cut
    proof: Proof | None = None
    fidelity: FidelityReport | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> CutReport:
        """Itself: nothing in it changes, and a model that was cut is copied several times a cut."""
        del memo
        return self

    @classmethod
    def after(cls, model: object, cut: Cut, proof: Proof | None) -> CutReport:
        """Of what this cut leaves of a model, which may have been cut before."""
        return cls(report_of(model).cut.then(cut), proof)

    @property
    def max_difference(self) -> float:
        """The proof's largest difference; NaN if the proof was left out."""
        return float("nan") if self.proof is None else self.proof.max_difference

    @property
    def params_removed(self) -> float:
        """Share of the parameters that are gone."""
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


# Under one private name in the small model's own dictionary, never through its ``__setattr__``: a
# layer or a method of the user's that is called ``report`` stays what it is, and the evidence goes
# wherever the model goes: into a deep copy, a pickle, a spawned worker.
_ATTRIBUTE = "_secateurs_report"

# On each layer that was cut, too, for what is made of the layers alone (torch.fx keeps these).
_MARK = "_secateurs_part"


@dataclass(frozen=True, slots=True)
class _Mark:
    """Of which model a layer is a part.

    Attributes:
        report: of the whole model.
        path: of the layer in it.
        layers: how many layers are marked so.
    """

    report: CutReport
    path: str
    layers: int


WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Where wrappers around a PyTorch model keep the model itself, by their classes."""


@takes(model=MODEL)
def report_of(model: object) -> CutReport:
    """What was removed from a model that this library made, and the proof of it.

    Args:
        model: as ``apply``, ``delete_channels``, ``prune`` or ``load`` gave it, or a copy of that;
            also inside what compiles it or spreads it over devices.

    Returns:
        The evidence; of a model that nothing was removed from, a report of an empty cut.

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
    """The model itself, out of what compiles it, averages it or spreads it over devices."""
    for base in type(model).__mro__:
        inside = _children(model).get(WRAPPERS.get(base.__name__, ""))
        if inside is not None:
            return unwrap(cast(Model, inside))
    return model


def _children(model: object) -> dict[str, object]:
    children = getattr(model, "__dict__", {}).get("_modules")
    return children if isinstance(children, dict) else {}


def _parts_with_reports(
    model: object, path: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, CutReport]]:
    """The outermost parts that were cut each by itself, such as a backbone in a detector."""
    seen = set() if seen is None else seen
    for name, child in _children(model).items():
        if id(child) in seen:
            continue
        seen.add(id(child))
        place = f"{path}.{name}" if path else name
        report = getattr(child, "__dict__", {}).get(_ATTRIBUTE)
        if isinstance(report, CutReport):
            yield place, report
        else:
            yield from _parts_with_reports(child, place, seen)


def _parts_by_marks(model: object) -> Iterator[tuple[str, CutReport]]:
    """Models whose layers are all here, though whatever held them is not."""
    found: dict[tuple[int, str], list[_Mark]] = {}
    for path, layer in _layers_without_report(model):
        mark = vars(layer).get(_MARK)
        if isinstance(mark, _Mark) and f".{path}".endswith(f".{mark.path}"):
            above = path[: len(path) - len(mark.path)].removesuffix(".")
            found.setdefault((id(mark.report), above), []).append(mark)
    for (_, above), marks in found.items():
        if len(marks) == marks[0].layers:
            yield above, marks[0].report


def _layers_without_report(model: object, above: str = "") -> Iterator[tuple[str, object]]:
    for name, child in _children(model).items():
        path = f"{above}.{name}" if above else name
        if _ATTRIBUTE not in getattr(child, "__dict__", {_ATTRIBUTE: None}):
            yield path, child
            yield from _layers_without_report(child, path)


def _mark_layers_(model: object, report: CutReport) -> None:
    if hasattr(model, "get_config"):  # of Keras, which makes layers anew from what they say
        return
    layers = {path: layer for path, layer in _layers_without_report(model) if path}
    names = dict.fromkeys(name.rpartition(".")[0] for name in report.cut.tensors)
    marked = [path for path in names if path in layers]
    for path in marked:
        vars(layers[path])[_MARK] = _Mark(report, path, len(marked))


def keep_report_(model: object, report: CutReport) -> None:
    """Let ``report_of`` give this for a model that the library made itself, and for its parts."""
    vars(model)[_ATTRIBUTE] = report
    _mark_layers_(model, report)
    for path, _ in list(_parts_with_reports(model)):
        part = model
        for name in path.split("."):
            part = _children(part)[name]
        keep_report_(part, CutReport(report.cut.of_part(path)))


def cut_of(model: object) -> Cut:
    """Everything that was removed from a model; an empty cut where it is dense."""
    return report_of(model).cut
