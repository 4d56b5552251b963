"""What a comparison found, as tables: one row a job, and their mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secateurs import formatting
from secateurs.comparison.job_runner import Dense, Outcome
from secateurs.comparison.settings import Comparison
from secateurs.formatting import percent

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """What a comparison found.

    Attributes:
        comparison: what it was told.
        denses: the dense models, one a seed.
        outcomes: of the jobs that are done.
    """

    comparison: Comparison
    denses: Sequence[Dense]
    outcomes: Sequence[Outcome]

    @property
    def rows(self) -> list[Row]:
        """One a job: what it came to, and its dense model beside it."""
        dense = {one.seed: one for one in self.denses}
        rows = []
        for outcome in self.outcomes:
            before = dense[outcome.seed]
            done = not outcome.failure
            rows.append(
                asdict(outcome)
                | {
                    "params_removed": 1 - outcome.params / before.params if done else None,
                    "macs_removed": 1 - outcome.macs / before.macs if done else None,
                    "dense_params": before.params,
                    "dense_macs": before.macs,
                    "dense_bytes": before.bytes,
                    "dense_accuracy": before.accuracy,
                }
            )
        return rows

    @property
    def summary(self) -> list[Row]:
        """One a strategy and amount: mean and standard deviation over its seeds."""
        found: dict[tuple[str, float], list[Row]] = {}
        for row in self.rows:
            if not row["failure"]:
                found.setdefault((row["strategy"], row["amount"]), []).append(row)
        return [
            {"strategy": strategy, "amount": amount, "seeds": len(own)} | _spread(own)
            for (strategy, amount), own in found.items()
        ]

    @property
    def failures(self) -> list[Outcome]:
        """The jobs that came to nothing, with the reason."""
        return [outcome for outcome in self.outcomes if outcome.failure]

    @property
    def dense_accuracy(self) -> float:
        """Mean over seeds."""
        return float(np.mean([one.accuracy for one in self.denses]))

    def to_csv(self) -> str:
        """One row a job."""
        return _csv(self.rows)

    def summary_to_csv(self) -> str:
        """One row a strategy and amount."""
        return _csv(self.summary)

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(self.to_plain(), indent=1) + "\n"

    def to_plain(self) -> dict[str, Any]:
        """Everything, as JSON can hold it: settings, dense models, jobs, summary."""
        return {
            "comparison": self.comparison.model_dump(mode="json"),
            "dense": [asdict(one) for one in self.denses],
            "jobs": self.rows,
            "summary": self.summary,
        }

    @property
    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """(columns, rows): accuracy after training and, in brackets, before it, by amount."""
        amounts = sorted({row["amount"] for row in self.summary})
        cells = {(row["strategy"], row["amount"]): _cell(row) for row in self.summary}
        strategies = dict.fromkeys(row["strategy"] for row in self.summary)
        columns = ("strategy", *(f"{100 * amount:g} % removed" for amount in amounts))
        rows = [
            (name, *(cells.get((name, amount), "-") for amount in amounts)) for name in strategies
        ]
        return columns, rows

    def __str__(self) -> str:
        columns, rows = self.table
        seeds = len(self.denses)
        lines = [
            formatting.table(columns, rows, right=range(1, len(columns))),
            "",
            f"Accuracy on the {self.comparison.judge_on} data after training and, in brackets, "
            f"right after the cut"
            + (f"; mean and standard deviation of {seeds} seeds" if seeds > 1 else "")
            + f". Dense: {percent(self.dense_accuracy)}.",
        ]
        lines += [f"{one.job.name}: {one.failure}" for one in self.failures]
        cautions = {one.strategy: one.caution for one in self.outcomes if one.caution}
        lines += [f"{strategy}: {caution}" for strategy, caution in cautions.items()]
        return "\n".join(lines)


def _spread(rows: Sequence[Row]) -> Row:
    found: Row = {}
    for name in ("params_removed", "macs_removed", "bytes", "before", "accuracy"):
        values = np.array([row[name] for row in rows], float)
        found[name] = float(values.mean())
        if name in ("before", "accuracy"):
            found[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    for name in ("seconds_to_choose", "seconds_to_train"):
        found[name] = float(np.mean([row[name] for row in rows]))
    return found


def _cell(row: Row) -> str:
    spread = f" +- {100 * row['accuracy_std']:.1f}" if row["seeds"] > 1 else ""
    return f"{100 * row['accuracy']:.1f}{spread} ({100 * row['before']:.0f})"


def _csv(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
