"""Summary of a history, round by round, and its headline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateurs.arguments import takes_as_annotated
from secateurs.errors import DataError, StudyError
from secateurs.formatting import percent
from secateurs.study.history import History, Record
from secateurs.study.records import check_records
from secateurs.training.metric import Metric


@dataclass(frozen=True, slots=True)
class Round:
    """One round of pruning and fine-tuning; round 0 is the dense model.

    Attributes:
        number: number of the round.
        start: number of training batches before the round.
        end: number of training batches by the end of the round.
        by_repair: whether repair alone recovered the round, which was then not trained.
        removed: number of channels removed in this round.
        channels: number of channels left.
        params: number of parameters left.
        macs: multiply-accumulates for one image.
        bytes: size of what is left.
        widths: layer -> filters left.
        after_cut: the metric (accuracy, unless the study has another) on validation data just
            after the cut.
        accuracy: the metric at the end of the round's training.
        speed: record of the latest speed measurement.
        max_difference: largest difference in the proof of the cut.
        tolerance: tolerance of the proof.
        inexact: operations for which removal is inexact by nature.
    """

    number: int
    start: int
    end: int
    by_repair: bool
    removed: int
    channels: int
    params: int
    macs: int
    bytes: int
    widths: Mapping[str, int]
    after_cut: float | None
    accuracy: float | None
    speed: Record | None
    max_difference: float | None
    tolerance: float | None
    inexact: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A study in numbers.

    Attributes:
        dense: the initial model.
        rounds: the rounds of pruning, in order.
        best: round of the study's result; while the study runs, its latest round.
        dense_accuracy: the dense model's metric on validation data, if known.
        accuracy: the best model's metric, if known.
        stop: record of the study's end, if it has ended.
        metric: metric by which models are chosen.
    """

    dense: Round
    rounds: tuple[Round, ...]
    best: Round
    dense_accuracy: float | None
    accuracy: float | None
    stop: Record | None
    metric: Metric = field(default_factory=Metric)

    @property
    def batches(self) -> int:
        """Number of fine-tuning batches in all rounds up to the best model's."""
        return sum(one.end - one.start for one in self.rounds if one.number <= self.best.number)

    @property
    def effort_text(self) -> str:
        """Effort of the best model: '840 batches of fine-tuning; repair recovered 12 of 17 rounds'.

        "" for the dense model.
        """
        upto = [one for one in self.rounds if one.number <= self.best.number]
        alone = sum(one.by_repair for one in upto)
        trained = plural(self.batches, "batch", "batches")
        found = f"{trained} of fine-tuning after dense training" if upto else ""
        return found + (f"; repair alone recovered {alone} of {len(upto)} rounds" if alone else "")

    @property
    def params_removed(self) -> float:
        """Share of the parameters removed from the best model."""
        return 1 - self.best.params / self.dense.params

    @property
    def macs_removed(self) -> float:
        """Share of the multiply-accumulates removed from the best model."""
        return 1 - self.best.macs / self.dense.macs

    @property
    def gain(self) -> float | None:
        """The best model's metric minus the dense one's."""
        if self.accuracy is None or self.dense_accuracy is None:
            return None
        return self.accuracy - self.dense_accuracy

    @property
    def gain_text(self) -> str:
        """The gain in words: '+0.3 points of accuracy', 'perplexity 12.1 (+0.3)'."""
        if self.accuracy is None or self.dense_accuracy is None:
            return ""
        change = self.metric.change(self.accuracy, self.dense_accuracy)
        if self.metric.is_share:
            return f"{change} of {self.metric.name}"
        return f"{self.metric.name} {self.metric.text(self.accuracy)} ({change})"

    def shares_removed(self) -> dict[int, float]:
        """Round -> share of the parameters removed by its end."""
        return {
            one.number: 1 - one.params / self.dense.params for one in (self.dense, *self.rounds)
        }

    def headline(self) -> str:
        """The main result, in one line."""
        if not self.rounds:
            known = self.dense_accuracy
            reached = "" if known is None else f" {self.metric.text(known)}"
            return f"The dense model, not pruned yet{':' if reached else ''}{reached}"
        if self.best.number == 0:
            return f"The dense model is still the best after {plural(len(self.rounds), 'round')}"
        found = f"{percent(self.params_removed)} of the parameters removed"
        if self.gain_text:
            found += f", {self.gain_text}"
        return found if self.stop else f"{found} so far"


@takes_as_annotated(DataError)
def summarise(history: History) -> Summary:
    """Summarise a study.

    Raises:
        StudyError: the history lacks the record of the dense model, or holds invalid records.
    """
    check_records(history)
    first = history.last("dense")
    if first is None:
        raise StudyError(
            f"the history holds no record of kind 'dense', so there is nothing to compare with; "
            f"received {history!r}"
        )
    # The last training record of a round is the one that counts.
    metric = Metric.of(first)
    trained = {record["round"]: record for record in history.of("train")}
    speeds = {record["round"]: record for record in history.of("speed")}
    repaired = {record["round"] for record in history.of("recovered")}
    dense = _round(first, trained, speeds, metric)
    # A round repeated after a crash was recorded twice: the later record counts.
    cuts = {record["round"]: record for record in history.of("prune")}
    rounds = tuple(
        _round(cuts[number], trained, speeds, metric, by_repair=number in repaired)
        for number in sorted(cuts)
    )
    stop = history.ending
    latest = rounds[-1] if rounds else dense
    if stop is None:
        return Summary(dense, rounds, latest, dense.accuracy, latest.accuracy, None, metric)
    best = next((one for one in (dense, *rounds) if one.number == stop.get("best_round")), latest)
    dense_accuracy = _first_known(stop.get(f"dense_{metric.key}"), dense.accuracy)
    accuracy = _first_known(stop.get(metric.key), best.accuracy)
    return Summary(dense, rounds, best, dense_accuracy, accuracy, stop, metric)


def faster(ratio: float) -> str:
    """1.65 -> '65.0 % more images a second'."""
    return f"{percent(abs(ratio - 1))} {'more' if ratio >= 1 else 'fewer'} images a second"


def conditions(speed: Record) -> str:
    """Format the conditions of a speed measurement: 'cpu, 2 threads, batch of 64'."""
    parts = [
        str(speed["device"]) if speed.get("device") else "",
        plural(speed["threads"], "thread") if speed.get("threads") else "",
        f"batch of {speed['batch_size']}" if speed.get("batch_size") else "",
    ]
    return ", ".join(part for part in parts if part)


def plural(number: int, noun: str, several: str | None = None) -> str:
    """(3, 'round') -> '3 rounds'; (2, 'batch', 'batches') -> '2 batches'."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _round(
    record: Record,
    trained: Mapping[int, Record],
    speeds: Mapping[int, Record],
    metric: Metric,
    *,
    by_repair: bool = False,
) -> Round:
    number = record["round"]
    last = trained.get(number, {})
    return Round(
        number=number,
        start=record["batch"],
        end=last["batch"] if last else record["batch"],
        by_repair=by_repair,
        removed=record.get("removed", 0),
        channels=record["channels"],
        params=record["params"],
        macs=record["macs"],
        bytes=record["bytes"],
        widths=record.get("widths", {}),
        after_cut=record.get(metric.key) if record["kind"] == "prune" else None,
        accuracy=last.get(metric.key),
        speed=speeds.get(number),
        max_difference=record.get("max_difference"),
        tolerance=record.get("tolerance"),
        inexact=tuple(record.get("inexact") or ()),
    )
