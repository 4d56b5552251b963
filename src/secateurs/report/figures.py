"""Figures of a study, one function each, drawn from its history alone.

Each returns a matplotlib ``Figure``, made without pyplot; ``style.save`` writes it as PNG and SVG.
All raise ``StudyError`` if the history lacks the record of the dense model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, ScalarFormatter

from secateurs.arguments import takes_as_annotated
from secateurs.channels.arrays import Floats
from secateurs.errors import DataError
from secateurs.formatting import percent
from secateurs.report import style
from secateurs.report.style import EndLabel, styled
from secateurs.report.summary import Summary, conditions, faster, summarise
from secateurs.study.history import History
from secateurs.training.metric import Metric

# The first figure shows differences of a few points of accuracy: much lower values are clipped,
# and a note says how low they are.
DEEPEST_SHOWN = 0.25
LAYERS_A_COLUMN, MOST_COLUMNS = 50, 3


@takes_as_annotated(DataError)
@styled
def accuracy_over_batches(history: History) -> Figure:
    """Plot the metric on validation data over training batches, with every pruning marked.

    The line is vertical at each cut, to the value just after it.
    """
    summary = summarise(history)
    metric = summary.metric
    # Some loops do not evaluate after every cut.
    history = History(one for one in history if one.get(metric.key, 0.0) is not None)
    path = history.of("train", "prune")
    if not path:
        return style.message(summary.headline(), f"No {metric.name} has been recorded yet.")
    figure, axes = style.canvas()
    batches, accuracies = _columns(path, "batch", metric.key)
    cuts, dips = _columns(history.of("prune"), "batch", metric.key)
    axes.set_xlim(0, _last_batch(history))
    axes.set_ylim(*_limits(summary, history))
    _shade_dense(axes, history, _where_training_began(axes, summary, history))
    upright = axes.get_xaxis_transform()
    axes.vlines(cuts, 0, 1, colors=style.FAINT, lw=0.8, transform=upright, gid="prunings")
    if summary.dense_accuracy is not None:
        style.baseline(axes, summary.dense_accuracy)
    axes.plot(batches, accuracies, color=style.BLUE, lw=1.3, gid="accuracy", zorder=3)
    axes.plot(cuts, dips, ".", ms=5, color=style.VERMILION, gid="after-cut", zorder=4)
    style.heading(axes, summary.headline(), f"Validation {metric.name}")
    _batches_below(axes)
    if metric.is_share:
        style.percent_axis(axes.yaxis)
    labels = [*_mark_best(axes, summary, history), *_dense_label(axes, summary)]
    if len(cuts):
        labels.append(_cuts_label(axes, cuts, dips, metric))
    style.label_ends(axes, labels)
    return figure


@takes_as_annotated(DataError)
@styled
def relative_size(history: History) -> Figure:
    """Plot parameters and MACs relative to the dense model over training batches."""
    summary = summarise(history)
    figure, axes = style.canvas()
    last = _last_batch(history)
    axes.set_xlim(0, last)
    axes.set_ylim(0, 1.04)
    _shade_dense(axes, history, below=True)
    labels = []
    for name, field, colour in (
        ("parameters", "params", style.BLUE),
        ("MACs", "macs", style.VERMILION),
    ):
        cuts, sizes = _columns(history.of("prune"), "batch", field)
        shares = np.concatenate([[1.0], sizes / getattr(summary.dense, field)])
        edges = np.concatenate([[0.0], cuts, [last]])
        heights = np.append(shares, shares[-1])
        axes.step(edges, heights, where="post", color=colour, gid=field, zorder=3)
        label = f"{name}\n{percent(shares[-1])}"
        labels.append(EndLabel(last, shares[-1], label, colour))
    if summary.rounds and summary.best is not summary.rounds[-1]:
        name = f"best: round {summary.best.number}" if summary.best.number else "best: dense"
        left = 1 - summary.params_removed
        style.ring(axes, summary.best.end, left)
        label = f"{name}\n{percent(left)}"
        labels.append(EndLabel(summary.best.end, left, label, style.GREEN))
    style.heading(axes, _size_title(summary), "Size relative to the dense model")
    _batches_below(axes)
    style.percent_axis(axes.yaxis)
    style.label_ends(axes, labels)
    return figure


@takes_as_annotated(DataError)
@styled
def images_per_second(history: History) -> Figure:
    """Plot images per second relative to the dense model in the same measurement, by round.

    Bars span the ratio's quartiles. Each device, number of threads and batch size has its own line.
    """
    summary = summarise(history)
    speeds = history.of("speed")
    if not speeds:
        return style.message("No speed measured", "The history holds no record of kind 'speed'.")
    figure, axes = style.canvas()
    style.baseline(axes, 1.0)
    labels = [EndLabel(max(speeds[:, "round"]), 1.0, "dense", style.MUTED)]
    settings = list(dict.fromkeys(conditions(record) for record in speeds))
    for colour, setting in zip(style.cycle(len(settings)), settings, strict=True):
        alike = History(record for record in speeds if conditions(record) == setting)
        rounds, ratios, lows, highs = _columns(alike, "round", "ratio", "low", "high")
        axes.errorbar(
            rounds,
            ratios,
            np.clip([ratios - lows, highs - ratios], 0, None),
            color=colour,
            ecolor=(colour, 0.35),
            elinewidth=3.5,
            marker="o",
            ms=3.5,
            zorder=3,
            label=setting,
        )
        label = f"{ratios[-1]:.2f} times\n" + setting.replace(", b", "\nb")
        labels.append(EndLabel(rounds[-1], ratios[-1], label, colour))
    _rounds_below(axes, summary, speeds)
    best = summary.best.speed
    if best is not None and best != speeds[-1]:
        style.ring(axes, best["round"], best["ratio"])
        label = f"best: round {best['round']}\n{best['ratio']:.2f} times"
        labels.append(EndLabel(best["round"], best["ratio"], label, style.GREEN))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    title = _speed_title(summary, speeds)
    style.heading(axes, title, "Images a second, as a multiple of the dense model's")
    style.label_ends(axes, labels)
    return figure


@takes_as_annotated(DataError)
@styled
def widths(history: History) -> Figure:
    """Plot the filters of every layer before and after, on a logarithmic scale."""
    summary = summarise(history)
    before, after = summary.dense.widths, summary.best.widths
    if not before:
        return style.message("No widths recorded", "The history does not say how wide layers are.")
    across = min(MOST_COLUMNS, math.ceil(len(before) / LAYERS_A_COLUMN))
    down = math.ceil(len(before) / across)
    size = (max(style.WIDTH, 4.1 * across), 1.2 + 0.165 * max(down, 4))
    figure = Figure(figsize=size, layout="constrained")
    lowest = max(1, min(after.get(name, 0) for name in before))
    for place in range(across):
        axes = figure.add_subplot(1, across, place + 1)
        axes.set_xscale("log", base=2)
        axes.set_xlim(2 ** math.floor(math.log2(lowest)) / 1.25, 1.25 * max(before.values()))
        _powers_of_two_below(axes, most=10 if across == 1 else 4)
        names = list(before)[place * down : (place + 1) * down]
        _draw_widths(axes, {name: (before[name], after.get(name, 0)) for name in names})
        axes.set_ylim(down - 0.3, -0.7)
    key = "filters of each layer: dense (hollow) and pruned (filled)"
    style.heading_of_panels(figure, _widths_title(before, after), key)
    return figure


def _columns(history: History, *fields: str) -> Floats:
    """Columns of a history as an array of shape (fields, records), which may be empty."""
    rows = history[:, fields]
    return np.array(rows, dtype=float).reshape(len(rows), len(fields)).T


def _last_batch(history: History) -> float:
    return float(max([1, *(record["batch"] for record in history if "batch" in record)]))


def _batches_below(axes: Axes) -> None:
    axes.set_xlabel("batches of training")
    style.count_axis(axes.xaxis)


def _shade_dense(axes: Axes, history: History, note: str = "", *, below: bool = False) -> None:
    """Shade the batches before the first cut, with a note at the top, or below."""
    trained = [record["batch"] for record in history.of("train") if record["round"] == 0]
    if not trained:
        return  # the study began with a trained model
    end = max(trained)
    axes.axvspan(0, end, color=style.SHADE, lw=0, zorder=0, gid="dense-training")
    width = end / axes.get_xlim()[1]
    name = "dense\ntraining" if width < 0.17 else "dense training"
    axes.annotate(
        f"{name}\n{note}".rstrip(),
        (end / 2 if width > 0.08 else 0, 0 if below else 1),
        xytext=(0 if width > 0.08 else 3, 5 if below else -4),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="center" if width > 0.08 else "left",
        va="bottom" if below else "top",
        fontsize=style.SMALL,
        color=style.MUTED,
    )


def _size_title(summary: Summary) -> str:
    if not summary.rounds:
        return summary.headline()
    left = percent(1 - summary.params_removed)
    of_macs = percent(1 - summary.macs_removed)
    return f"{left} of the parameters and {of_macs} of the MACs are left"


def _limits(summary: Summary, history: History) -> tuple[float, float]:
    """Limits of the metric's axis: over the rounds of pruning if any, else all training.

    The worst values, which are far off just after a cut, are left out.
    """
    metric, recorded = summary.metric, history.of("train", "prune")
    known = [one for one in (summary.accuracy, summary.dense_accuracy) if one is not None]
    scores = [metric.score(value) for value in recorded[:, metric.key]]
    best = max([*scores, *map(metric.score, known)])
    rounds = [metric.score(one[metric.key]) for one in recorded if one["round"] > 0]
    dense = summary.dense_accuracy
    reference = best if dense is None else metric.score(dense)
    worst = min(rounds or scores)
    if rounds:
        worst = max(min(worst, reference), reference - _deepest_shown(metric, reference, history))
    room = max(best - worst, 0.01 if metric.is_share else 1e-3 * abs(best), 1e-12)
    ends = metric.value(worst - 0.12 * room), metric.value(best + 0.22 * room)
    return min(ends), max(ends)


def _deepest_shown(metric: Metric, reference: float, history: History) -> float:
    """Depth of the axis below the dense model; for plain numbers, what training recovered from."""
    if metric.is_share:
        return DEEPEST_SHOWN
    ends = {one["round"]: metric.score(one[metric.key]) for one in history.of("train")}
    return max(2 * (reference - min(ends.values(), default=reference)), 0.25 * abs(reference))


def _where_training_began(axes: Axes, summary: Summary, history: History) -> str:
    """A note if dense training began outside the axes."""
    metric = summary.metric
    first = next((one[metric.key] for one in history.of("train") if one["round"] == 0), None)
    low, high = axes.get_ylim()
    if first is None or (first >= low if metric.higher_is_better else first <= high):
        return ""
    return f"from {100 * first:.0f} %" if metric.is_share else f"from {metric.text(first)}"


def _cuts_label(axes: Axes, cuts: Floats, dips: Floats, metric: Metric) -> EndLabel:
    """Label that explains the dots and how low they get; those outside are drawn at the edge."""
    low, high = axes.get_ylim()
    higher = metric.higher_is_better
    edge, outside = (low, cuts[dips < low]) if higher else (high, cuts[dips > high])
    if outside.size:
        axes.plot(
            outside,
            np.full(outside.size, edge),
            "v" if higher else "^",
            ms=4.5,
            color=style.VERMILION,
            clip_on=False,
            zorder=5,
            gid="after-cut-below",
        )
    worst = metric.text(float(dips.min() if higher else dips.max()))
    label = f"just after a cut,\nat worst {worst}"
    return EndLabel(cuts[-1], float(np.clip(dips[-1], low, high)), label, style.VERMILION)


def _mark_best(axes: Axes, summary: Summary, history: History) -> list[EndLabel]:
    """Ring the point of the best model; returns its label if the study has ended."""
    if summary.accuracy is None or summary.stop is None:
        return []
    accuracy = summary.accuracy
    evaluations = [one for one in history.of("train") if one["round"] == summary.best.number]
    key = summary.metric.key
    nearest = min(reversed(evaluations), key=lambda one: abs(one[key] - accuracy), default=None)
    batch = summary.best.end if nearest is None else nearest["batch"]
    style.ring(axes, batch, accuracy)
    name = f"round {summary.best.number}" if summary.best.number else "dense"
    label = f"best: {name}\n{summary.metric.text(accuracy)}"
    return [EndLabel(batch, accuracy, label, style.GREEN)]


def _dense_label(axes: Axes, summary: Summary) -> list[EndLabel]:
    if summary.dense_accuracy is None or (summary.stop and not summary.best.number):
        return []  # unknown, or labelled as the best
    label = f"dense\n{summary.metric.text(summary.dense_accuracy)}"
    return [EndLabel(axes.get_xlim()[1], summary.dense_accuracy, label, style.MUTED)]


def _rounds_below(axes: Axes, summary: Summary, speeds: History) -> None:
    """Label the x axis with rounds, and the share of the parameters removed by each."""
    shares = summary.shares_removed()
    rounds = sorted({number for number in speeds[:, "round"] if number in shares})
    step = math.ceil(len(rounds) / 9) or 1
    # Counted from the last round, because the title is about it.
    shown = rounds[::-1][::step][::-1]
    axes.set_xticks(shown, [f"{number}\n{100 * shares[number]:.0f} %" for number in shown])
    axes.set_xlabel("round, and share of the parameters removed by then")
    axes.margins(x=0.03, y=0.12)


def _speed_title(summary: Summary, speeds: History) -> str:
    """State the speed of the best model, or of the latest that was measured."""
    speed = summary.best.speed or speeds[-1]
    removed = summary.shares_removed().get(speed["round"], 0.0)
    return f"{faster(speed['ratio'])} with {percent(removed)} of the parameters removed"


def _draw_widths(axes: Axes, changes: Mapping[str, tuple[int, int]]) -> None:
    """Draw a line per layer, from its filters before (hollow) to those after (filled)."""
    rows = np.arange(len(changes))
    before, after = np.array(list(changes.values()), dtype=float).reshape(-1, 2).T
    left = np.maximum(after, axes.get_xlim()[0])  # zero has no place on a log scale
    axes.hlines(rows, left, before, colors="#f0b48a", lw=2.2, gid="removed")
    axes.plot(before, rows, "o", ms=3.8, mfc="white", mec=style.EDGE, mew=1, gid="before")
    axes.plot(left, rows, "o", ms=3.8, color=style.BLUE, gid="after", clip_on=False)
    axes.set_yticks(rows, [style.short(name) for name in changes], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for row, (was, now) in enumerate(changes.values()):
        axes.annotate(
            f"{was}" if was == now else f"{was} \N{RIGHTWARDS ARROW} {now}",
            (1, row),
            xytext=(4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=style.MUTED if was == now else style.INK,
        )


def _powers_of_two_below(axes: Axes, most: int) -> None:
    """Set ticks at powers of two, or every second or third of them if there are many."""
    first, last = (math.log2(limit) for limit in axes.get_xlim())
    powers = range(math.ceil(first), math.floor(last) + 1)
    ticks = [2.0**power for power in powers[:: math.ceil(len(powers) / most)]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(visible=True, axis="x")


def _widths_title(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    was, now = sum(before.values()), sum(after.get(name, 0) for name in before)
    if was == now:
        return f"{was:,} filters, none removed"
    arrow = "\N{RIGHTWARDS ARROW}"
    return f"{was:,} {arrow} {now:,} filters, {percent(1 - now / was)} removed"
