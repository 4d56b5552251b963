"""Figures and page of a comparison, made from its results as plain data."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from secateurs.files import write_atomically
from secateurs.formatting import megabytes, percent
from secateurs.report.comparisons import Curve, accuracy_against_removed, norm_histogram
from secateurs.report.page import Picture, flat, picture, template
from secateurs.report.summary import plural
from secateurs.training.metric import Metric

FILE_NAME = "compare.html"
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TitledTable:
    """A table with a title above it and a note below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def write(found: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write a comparison's figures (PNG and SVG) and its page, ``compare.html``, into a folder.

    Args:
        found: dictionary with "comparison" (settings), "dense" (one per seed), "jobs" and
            "summary", as from ``secateurs.comparison.Results.to_plain``.
        folder: created if it does not exist.

    Returns:
        The page's path.
    """
    settings = dict(found["comparison"])
    task, command = settings["task"], settings.pop("command", ())
    page = template("comparison.html.j2").render(
        title=f"Strategies compared: {task['model']} on {task['data']}",
        headline=headline(
            found["summary"], dense_accuracy(found), metric_of(found), unit_of(found)
        ),
        summary=_summarise(found),
        pictures=list(_pictures(found, Path(folder))),
        tables=list(_tables(found)),
        failures=[
            f"{one['strategy']} at {100 * one['amount']:g} %, seed {one['seed']}: {one['failure']}"
            for one in found["jobs"]
            if one["failure"]
        ],
        cautions=sorted(
            {f"{o['strategy']}: {o['caution']}" for o in found["jobs"] if o["caution"]}
        ),
        command=shlex.join(command),
        settings=list(flat(settings)),
    )
    path = Path(folder) / FILE_NAME
    write_atomically(path, page.encode())
    return path


def metric_of(found: Mapping[str, Any]) -> Metric:
    """The metric that is compared."""
    return Metric.of({"metric": found["comparison"].get("metric") or None})


def dense_accuracy(found: Mapping[str, Any]) -> float:
    """Mean accuracy of the dense models over seeds."""
    return float(np.mean([one["accuracy"] for one in found["dense"]]))


def curves(found: Mapping[str, Any], against: str) -> dict[str, Curve]:
    """Strategy -> (amounts, accuracies after training), both of shape (seeds, points).

    The dense model is each curve's first point; failed jobs are NaN.

    Args:
        found: as for ``write``.
        against: "params_removed", or "bytes" for sizes in megabytes.
    """
    dense = {one["seed"]: one for one in found["dense"]}
    amounts = sorted({one["amount"] for one in found["jobs"]})
    cells = {(one["strategy"], one["seed"], one["amount"]): one for one in found["jobs"]}
    names = dict.fromkeys(one["strategy"] for one in found["jobs"])

    def row(name: str, seed: int, key: str) -> list[float]:
        picked = (cells.get((name, seed, amount)) for amount in amounts)
        return [math.nan if one is None or one["failure"] else one[key] for one in picked]

    whole = {seed: one["bytes"] / 1e6 if against == "bytes" else 0.0 for seed, one in dense.items()}
    scale = 1e-6 if against == "bytes" else 1.0
    return {
        name: (
            [[whole[s], *(scale * x for x in row(name, s, against))] for s in dense],
            [[one["accuracy"], *row(name, s, "accuracy")] for s, one in dense.items()],
        )
        for name in names
    }


def unit_of(found: Mapping[str, Any]) -> str:
    """What amounts are shares of, for sentences."""
    named = {"macs": "the MACs", "channels": "the channels", "size_mb": "the bytes"}
    return named.get(found["comparison"].get("unit", ""), "the parameters")


def headline(
    summary: Records, dense: float, metric: Metric | None = None, unit: str = "the parameters"
) -> str:
    """State which strategy is best at the largest amount, and whether random is as good."""
    if not summary:
        return "No job has finished."
    amount = max(one["amount"] for one in summary)
    rows = [one for one in summary if one["amount"] == amount]
    metric = metric or Metric()
    best = max(rows, key=lambda one: metric.score(one["accuracy"]))
    reached = metric.text(best["accuracy"])
    name = "" if metric == Metric() else f"{metric.name} "
    text = (
        f"With {100 * amount:g} % of {unit} removed, {best['strategy']} is best: "
        f"{name}{reached} after training ({metric.change(best['accuracy'], dense)})."
    )
    control = next((one for one in rows if one["strategy"] == "random"), None)
    if control is None or control is best:
        return text
    gap = abs(best["accuracy"] - control["accuracy"])
    spread = math.hypot(best["accuracy_std"], control["accuracy_std"])
    if gap <= spread:
        return f"{text} Random is not distinguishable from it with these seeds."
    return f"{text} Random comes to {metric.text(control['accuracy'])}."


def _summarise(found: Mapping[str, Any]) -> str:
    names = {one["strategy"] for one in found["jobs"]}
    seeds, metric = len(found["dense"]), metric_of(found)
    dense = metric.text(dense_accuracy(found))
    measured = "Accuracies are" if metric == Metric() else f"The {metric.name} is"
    return (
        f"{len(names)} {'strategy' if len(names) == 1 else 'strategies'}, {plural(seeds, 'seed')}; "
        "each prunes the same dense models and is trained in the same way afterwards. "
        f"{measured} of the {found['comparison']['judge_on']} data; dense {dense}."
    )


def _pictures(found: Mapping[str, Any], folder: Path) -> Iterator[Picture]:
    for name, figure, caption in figures(found):
        yield picture(name, figure, caption, folder)


def figures(found: Mapping[str, Any]) -> Iterator[tuple[str, Figure, str]]:
    """Yield (name, figure, caption)."""
    dense, metric = dense_accuracy(found), metric_of(found)
    if found["summary"]:
        yield (
            "accuracy-removed",
            accuracy_against_removed(
                curves(found, "params_removed"),
                dense,
                "share of the parameters removed",
                metric=metric,
            ),
            f"{metric.name.capitalize()} after pruning and training against the share of "
            "parameters removed. Lines are means, bands the range over seeds; the dashed line is "
            "the dense model.",
        )
        yield (
            "accuracy-size",
            accuracy_against_removed(
                curves(found, "bytes"), dense, "size of the model in MB", unit="MB", metric=metric
            ),
            "The same against the size of the model.",
        )
    if found["dense"]:
        yield (
            "norms",
            norm_histogram(found["dense"][0]["norms"], "L1 norm of a filter, divided by its size"),
            "L1 norms of all filters of all layers of the first seed's dense model, each divided "
            "by the number of weights in the filter, to make layers comparable.",
        )


def _tables(found: Mapping[str, Any]) -> Iterator[TitledTable]:
    summary: Records = found["summary"]
    metric = metric_of(found)
    for key, title, note in (
        ("accuracy", "After training", f"Mean {metric.name} and standard deviation over seeds."),
        ("before", "Right after the cut", "The same before any training."),
    ):
        columns, rows = by_amount(summary, key, metric)
        yield TitledTable(title, columns, rows, note)
    yield TitledTable(
        "What it took",
        ("strategy", "amount", "parameters removed", "MACs removed", "size", "seconds to choose"),
        tuple(
            (
                one["strategy"],
                f"{100 * one['amount']:g} %",
                percent(one["params_removed"]),
                percent(one["macs_removed"]),
                megabytes(one["bytes"]),
                f"{one['seconds_to_choose']:.1f}",
            )
            for one in summary
        ),
        "Means over seeds. Seconds to choose: time for scoring, planning, cutting and proving; "
        "work shared by jobs of one strategy and seed is counted for the first of them.",
    )


def by_amount(
    summary: Records, key: str, metric: Metric | None = None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(columns, rows) of a table with a row per strategy and a column per amount."""
    metric = metric or Metric()
    amounts = sorted({one["amount"] for one in summary})
    cells = {(one["strategy"], one["amount"]): one for one in summary}

    def cell(name: str, amount: float) -> str:
        one = cells.get((name, amount))
        if one is None:
            return "\N{EN DASH}"
        value, std = one[key], one[f"{key}_std"]
        shown, spread = f"{value:.4g}", f"{std:.2g}"
        if metric.is_share:
            shown, spread = f"{100 * value:.1f}", f"{100 * std:.1f}"
        return f"{shown} \N{PLUS-MINUS SIGN} {spread}" if one["seeds"] > 1 else shown

    names = dict.fromkeys(one["strategy"] for one in summary)
    return (
        ("strategy", *(f"{100 * amount:g} % removed" for amount in amounts)),
        tuple((name, *(cell(name, amount) for amount in amounts)) for name in names),
    )
