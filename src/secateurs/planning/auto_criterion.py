"""``criterion="auto"``: several criteria cut the same network; the calibration loss decides."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.arguments import CRITERION_LIST, DATA_GIVEN, FUNCTION, LOSS, SEED, takes
from secateurs.backends import backend_named
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import as_given, read_batches
from secateurs.calibration.needs import Need
from secateurs.channels.cut import CUT, Cut
from secateurs.channels.network import NETWORK, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import AUTO, CRITERIA, find
from secateurs.criteria.scoring import Scores, score, score_many
from secateurs.errors import BudgetError, DataError, ModelError, UnknownNameError
from secateurs.formatting import percent
from secateurs.planning.budget import Budget
from secateurs.planning.planner import plan

CANDIDATES = ("l2", "whc", "geometric_median", "fluctuation", "taylor", "fisher", "random")
"""One criterion of each family, the cheapest first, and random scores as a control."""

Planner = Callable[[Scores], Cut]


@dataclass(frozen=True, eq=False, slots=True)
class Standing:
    """Result of one criterion.

    Attributes:
        criterion: name of the criterion.
        loss: mean loss of its cut model on the judging images, with batch normalisation's
            statistics re-estimated; NaN if it could not take part.
        accuracy: accuracy on the judging images; None where labels are not classes.
        behind: mean difference of its loss from the winner's.
        error: standard error of that difference over images.
        out: why it could not take part, or ''.
    """

    criterion: str
    loss: float
    accuracy: float | None
    behind: float = 0.0
    error: float = 0.0
    out: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Tournament:
    """Comparison of criteria, and the winner.

    Attributes:
        standings: results, the winner's first; criteria that could not take part come last.
        scores: the winner's scores, computed from all calibration images.
        images: number of judging images; scores for the judged cuts were computed from others.
        dense_loss: mean loss of the dense model on the judging images.
        removed: share of the parameters that the winner's cut removes.
    """

    standings: tuple[Standing, ...]
    scores: Scores
    images: int
    dense_loss: float
    removed: float

    @property
    def winner(self) -> str:
        """Name of the criterion whose cut has the lowest loss."""
        return self.standings[0].criterion

    @property
    def reason(self) -> str:
        """Explanation of the choice, in a sentence or two."""
        first, *rest = self.standings
        text = (
            f"{first.criterion} has the lowest calibration loss after {percent(self.removed)} "
            f"of the parameters are cut: {first.loss:.3f} on {self.images} images (dense "
            f"{self.dense_loss:.3f})"
        )
        rivals = [one for one in rest if not one.out]
        if not rivals:
            return f"{text}; no other criterion could be used."
        next_best = rivals[0]
        text += f", {next_best.behind:.3f} below {next_best.criterion}"
        close = [one.criterion for one in rivals if one.behind <= 2 * one.error]
        if not close:
            return f"{text}: more than two standard errors."
        return f"{text}. Not distinguishable, within two standard errors: " + (
            f"{', '.join(close)}."
        )

    def to_plain(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        keys = ("criterion", "loss", "accuracy", "behind", "error")
        return {
            "winner": self.winner,
            "reason": self.reason,
            "images": self.images,
            "standings": [
                {"criterion": one.criterion, "out": one.out}
                if one.out
                else {key: getattr(one, key) for key in keys}
                for one in self.standings
            ],
        }

    def __str__(self) -> str:
        rows = [
            (
                one.criterion,
                "-" if one.out else f"{one.loss:.4f}",
                "-" if one.accuracy is None else percent(one.accuracy),
                one.out or ("" if one.criterion == self.winner else _behind(one)),
            )
            for one in self.standings
        ]
        columns = ("criterion", "loss", "accuracy", "behind the first")
        return f"{formatting.table(columns, rows, right=(1, 2))}\n\n{self.reason}"


@takes(
    network=NETWORK,
    data=DATA_GIVEN,
    planner=FUNCTION,
    candidates=CRITERION_LIST,
    loss=LOSS,
    seed=SEED,
)
def tournament(
    network: Network,
    data: Any,
    planner: Planner,
    *,
    candidates: Sequence[str] = CANDIDATES,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> Tournament:
    """Let criteria cut a network, and choose the one whose cut has the lowest calibration loss.

    Every second image is held out to judge the cuts; criteria see the others only. A cut shifts the
    inputs of batch normalisation, which any training would correct at once, so its statistics are
    re-estimated on those other images before a cut is judged.

    Args:
        network: as returned by ``trace``; its model is restored afterwards.
        data: calibration data with labels, as for ``score``.
        planner: function from scores to the cut that is judged.
        candidates: names of criteria, one or several.
        loss: as for ``score``.
        seed: as for ``score``.

    Raises:
        DataError: there are no data, no labels, or fewer than two images.
        BudgetError: no candidate's cut can be made.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> data = torch.randn(16, 4), torch.arange(16) % 2
        >>> def planner(scores):
        ...     return sec.plan(network, scores, amount=0.5)
        >>> sec.tournament(network, data, planner, candidates=("l1", "l2")).winner in ("l1", "l2")
        True
    """
    _check_candidates(candidates)
    learning, judging = _halves(network, data, loss)
    backend = backend_named(network.source.framework)
    dense, _ = backend.evaluate_cut(network, Cut(), judging, (), loss)
    scores = _score(network, candidates, learning, loss, seed)
    cuts: dict[str, Cut] = {}
    found: dict[str, tuple[NDArray[np.float64], float | None]] = {}
    out: dict[str, str] = {}
    for name in candidates:
        try:
            cuts[name] = planner(_or_raise(scores[name]))
            CUT.check("tournament", "what planner returns", cuts[name])
            found[name] = backend.evaluate_cut(network, cuts[name], judging, learning, loss)
        except (BudgetError, ModelError, DataError) as error:
            out[name] = str(error)
    standings = rank_candidates(found, out)
    winner = standings[0].criterion
    won = _or_raise(_score(network, [winner], [*learning, *judging], loss, seed)[winner])
    removed = 1 - network.cost(cuts[winner]).params / network.cost().params
    won.tournament = Tournament(standings, won, len(dense), float(dense.mean()), removed)
    return won.tournament


def _check_candidates(candidates: Sequence[str]) -> None:
    if not candidates:
        raise UnknownNameError("tournament: expected at least one candidate; received none")
    for name in candidates:
        find(name)


def score_for(
    network: Network,
    criterion: str | Callable[[GroupData], Any],
    planner: Planner,
    *,
    data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> Scores:
    """``score``, except that ``"auto"`` is decided with the cut that is about to be made.

    Args:
        network: as for ``score``.
        criterion: as for ``score``.
        planner: function from scores to that cut.
        data: as for ``score``.
        loss: as for ``score``.
        seed: as for ``score``.
    """
    if criterion == AUTO:
        return tournament(network, data, planner, loss=loss, seed=seed).scores
    return score(network, criterion, data=data, loss=loss, seed=seed)


def scores_at_half(network: Network, data: Any, *, loss: Any = None, seed: int = 0) -> Scores:
    """Scores of the criterion that wins when half of the parameters are removed."""

    def planner(scores: Scores) -> Cut:
        return plan(network, scores, Budget(params=0.5))

    return tournament(network, data, planner, loss=loss, seed=seed).scores


def _halves(
    network: Network, data: Any, loss: Any
) -> tuple[list[CalibrationBatch], list[CalibrationBatch]]:
    """(images to score by, images to judge by): alternate images of each batch."""
    source: Any = network.source  # both frameworks keep what they were traced with
    example = source.example_inputs
    given = list(read_batches(data, example, AUTO, loss))
    learning: list[CalibrationBatch] = []
    judging: list[CalibrationBatch] = []
    for batch in given:
        rows = np.arange(len(batch))
        learning += [batch.rows(rows[::2])]
        judging += [batch.rows(rows[1::2])] if len(batch) > 1 else []
    if not judging:
        raise DataError(
            "auto: expected at least two calibration images in a batch, one for scoring and one "
            f"for evaluation; received {sum(map(len, given))} in {len(given)} batches"
        )
    return learning, judging


def _score(
    network: Network, names: Sequence[str], parts: Sequence[CalibrationBatch], loss: Any, seed: int
) -> dict[str, Scores | Exception]:
    """Scores by every criterion that can compute them, else the error that it raises."""
    data = [as_given(part) for part in parts]
    able: dict[str, Scores | Exception] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unsuitable criterion simply loses
        try:
            return dict(score_many(network, names, data=data, loss=loss, seed=seed))
        except (ModelError, DataError):
            pass
        for name in names:  # one of them failed: find out which
            needs = CRITERIA[name].needs & Need.DATA
            needed = data if needs else None
            try:
                able[name] = score_many(network, [name], data=needed, loss=loss, seed=seed)[name]
            except (ModelError, DataError) as error:
                able[name] = error
    return able


def _or_raise(found: Scores | Exception) -> Scores:
    if isinstance(found, Exception):
        raise found
    return found


def rank_candidates(
    found: dict[str, tuple[NDArray[np.float64], float | None]], out: dict[str, str]
) -> tuple[Standing, ...]:
    """Sort the candidates by mean loss, the lowest first and NaN last.

    Args:
        found: criterion -> (losses of its cut, shape (images,); its accuracy).
        out: criterion -> why it could not take part.

    Raises:
        BudgetError: ``found`` is empty.
    """
    if not found:
        raise BudgetError(f"auto: no criterion could be used: {next(iter(out.values()))}")
    means = {name: float(losses.mean()) for name, (losses, _) in found.items()}
    order = sorted(found, key=lambda name: np.inf if np.isnan(means[name]) else means[name])
    best = found[order[0]][0]
    standings = []
    for name in order:
        losses, accuracy = found[name]
        apart = losses - best
        error = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else 0.0
        standings.append(Standing(name, means[name], accuracy, float(apart.mean()), error))
    return (*standings, *(Standing(name, np.nan, None, out=why) for name, why in out.items()))


def _behind(one: Standing) -> str:
    return f"{one.behind:+.4f} +- {one.error:.4f}"
