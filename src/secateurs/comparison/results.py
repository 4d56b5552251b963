"""Results of a comparison as tables: one row per job, and mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secateurs import formatting
from secateurs.comparison.job_runner import DenseResult, Outcome
from secateurs.comparison.settings import Comparison
from secateurs.errors import UnknownNameError, nearest
from secateurs.training.metric import Metric

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """Results of a comparison.

    Attributes:
        comparison: its settings.
        denses: the dense models, one per seed.
        outcomes: results of the completed jobs.
    """

    comparison: Comparison
    denses: Sequence[DenseResult]
    outcomes: Sequence[Outcome]

    @property
    def metric(self) -> Metric:
        """The metric that is compared."""
        return Metric.of({"metric": self.comparison.metric or None})

    @property
    def rows(self) -> list[Row]:
        """One row per job: its result, with its dense model's beside it."""
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
        """One row per strategy and amount: mean and standard deviation over seeds."""
        found: dict[tuple[str, float], list[Row]] = {}
        for row in self.rows:
            if not row["failure"]:
                found.setdefault((row["strategy"], row["amount"]), []).append(row)
        return [
            {"strategy": strategy, "amount": amount, "seeds": len(rows)} | _spread(rows)
            for (strategy, amount), rows in found.items()
        ]

    @property
    def failures(self) -> list[Outcome]:
        """The jobs that failed, with the reason."""
        return [outcome for outcome in self.outcomes if outcome.failure]

    @property
    def dense_accuracy(self) -> float:
        """Mean accuracy of the dense models over seeds."""
        return float(np.mean([one.accuracy for one in self.denses]))

    def compare_pairs(self, against: str | None = None) -> list[Row]:
        """Paired difference of each strategy to another on the same seeds, with a 95 % interval.

        Seeds differ by more than strategies do, so differences within a seed are more precise than
        means over seeds.

        Args:
            against: name of a strategy; None is the first one.

        Returns:
            One row per strategy and amount: strategy, against, amount, seeds, difference, low, high
            (None for a single seed) and better: whether the interval is on the better side of 0.

        Raises:
            UnknownNameError: there is no such strategy.
        """
        names = list(dict.fromkeys(row["strategy"] for row in self.rows))
        other = against or (names[0] if names else "")
        if against is not None and against not in names:
            raise UnknownNameError(f"compare: no strategy {against!r}{nearest(against, names)}")
        found: dict[tuple[str, float], dict[int, float]] = {}
        for row in self.rows:
            if not row["failure"]:
                by_seed = found.setdefault((row["strategy"], row["amount"]), {})
                by_seed[row["seed"]] = row["accuracy"]
        rows = []
        for (name, amount), by_seed in found.items():
            theirs = found.get((other, amount), {})
            pairs = [value - theirs[seed] for seed, value in by_seed.items() if seed in theirs]
            if pairs and name != other:
                row = {"strategy": name, "against": other, "amount": amount}
                rows.append(row | _interval(pairs, self.metric))
        return rows

    def to_csv(self) -> str:
        """CSV with one row per job."""
        return _csv(_name_metric(self.rows, self.metric))

    def summary_to_csv(self) -> str:
        """CSV with one row per strategy and amount."""
        return _csv(_name_metric(self.summary, self.metric))

    def pairs_to_csv(self) -> str:
        """CSV with one row per strategy and amount: ``compare_pairs`` with the first strategy."""
        return _csv(self.compare_pairs())

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        columns, rows = self.table
        head = " & ".join(map(_latex, columns))
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
        return "\n".join(
            [
                f"% {self._legend}",
                rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
                r"\toprule",
                head + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_plain(), indent=1) + "\n"

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON-ready data: settings, dense models, jobs, summary."""
        return {
            "comparison": self.comparison.model_dump(mode="json"),
            "dense": [asdict(one) for one in self.denses],
            "jobs": self.rows,
            "summary": self.summary,
            "paired": self.compare_pairs(),
        }

    @property
    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """(columns, rows): the metric after training and, in brackets, before it, by amount."""
        amounts = sorted({row["amount"] for row in self.summary})
        cells = {(row["strategy"], row["amount"]): _cell(row, self.metric) for row in self.summary}
        strategies = dict.fromkeys(row["strategy"] for row in self.summary)
        columns = ("strategy", *(f"{100 * amount:g} % {self._share_of}" for amount in amounts))
        rows = [
            (name, *(cells.get((name, amount), "-") for amount in amounts)) for name in strategies
        ]
        return columns, rows

    @property
    def _share_of(self) -> str:
        """What an amount is a share of: 'removed', 'of MACs removed'."""
        return {
            "params": "removed",
            "macs": "of MACs removed",
            "channels": "of channels removed",
            "size_mb": "of bytes removed",
        }[self.comparison.unit]

    @property
    def _legend(self) -> str:
        seeds, metric = len(self.denses), self.metric
        name = metric.name[0].upper() + metric.name[1:]
        spread = f"; mean and standard deviation of {seeds} seeds" if seeds > 1 else ""
        return (
            f"{name} on the {self.comparison.judge_on} data after training and, in brackets, "
            f"right after the cut{spread}. Dense: {metric.text(self.dense_accuracy)}."
        )

    def __str__(self) -> str:
        columns, rows = self.table
        lines = [
            formatting.table(columns, rows, right=range(1, len(columns))),
            "",
            self._legend,
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


def _cell(row: Row, metric: Metric) -> str:
    if metric.is_share:
        spread = f" +- {100 * row['accuracy_std']:.1f}" if row["seeds"] > 1 else ""
        return f"{100 * row['accuracy']:.1f}{spread} ({100 * row['before']:.0f})"
    spread = f" +- {row['accuracy_std']:.2g}" if row["seeds"] > 1 else ""
    return f"{row['accuracy']:.4g}{spread} ({row['before']:.3g})"


def _interval(differences: Sequence[float], metric: Metric) -> Row:
    """Mean difference with its 95 % interval by Student's t; no interval for a single one."""
    mean, count = float(np.mean(differences)), len(differences)
    row: Row = {"seeds": count, "difference": mean, "low": None, "high": None, "better": None}
    if count < 2:
        return row
    from scipy import stats  # slow to import, and imports PyTorch

    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    low, high = mean - reach, mean + reach
    better = low > 0 if metric.higher_is_better else high < 0
    return row | {"low": low, "high": high, "better": better}


def _name_metric(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """Replace "accuracy" by the metric's own name in the keys of rows."""
    name = metric.name.replace(" ", "_")
    return [{key.replace("accuracy", name): value for key, value in row.items()} for row in rows]


def _latex(cell: str) -> str:
    """Escape text for LaTeX."""
    for mark in "&%_#$":
        cell = cell.replace(mark, f"\\{mark}")
    return cell.replace(" +- ", r" $\pm$ ")


def _csv(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
