"""Figures that compare strategies, layers and classes, one function each, from plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from secateurs.arguments import takes_as_annotated
from secateurs.calibration.ablation import Ablation
from secateurs.channels.arrays import Floats
from secateurs.errors import DataError
from secateurs.formatting import percent, points
from secateurs.report import style
from secateurs.report.style import EndLabel, styled
from secateurs.report.summary import plural
from secateurs.training.metric import Metric

Curve = tuple[ArrayLike, ArrayLike]

NAMED_GROUPS = 4
CONTROL = "random"
ROW_LABELS = 60


_UNIT_NAMES = {"macs": "MACs", "params": "parameters", "size_mb": "file size"}
"""Names of a budget's units in figures."""


@takes_as_annotated(DataError)
@styled
def accuracy_against_removed(
    curves: Mapping[str, Curve],
    baseline: float,
    x_label: str,
    *,
    unit: str | None = None,
    metric: Metric | None = None,
) -> Figure:
    """Plot accuracy of several strategies over the removed amount: mean and range over seeds.

    Of more than six, only the four that end best, the control and the one that ends worst are
    named; the others are thin grey lines.

    Args:
        curves: strategy -> (amounts, accuracies), each of shape (points,) or (seeds, points);
            NaN where a seed has no such point.
        baseline: accuracy of the dense model.
        x_label: label of the amounts.
        unit: unit of amounts that are remaining sizes, such as "MB"; None for removed shares.
        metric: the metric, if it is not accuracy.
    """
    figure, axes = style.canvas()
    metric = metric or Metric()
    labels, means = [], {}
    drawn = {name: _over_seeds(curve) for name, curve in curves.items()}
    sign = 1 if metric.higher_is_better else -1
    named = _colour_of({name: sign * mean for name, (_, mean, _, _) in drawn.items()})
    for name, (x, mean, low, high) in drawn.items():
        means[name] = (x, mean)
        if name not in named:
            axes.plot(x, mean, color=style.EDGE, lw=0.7, gid=name, zorder=2)
            continue
        colour = named[name]
        if not np.array_equal(low, high):
            axes.fill_between(x, low, high, color=colour, alpha=0.14, lw=0)
        axes.plot(x, mean, marker="o", ms=3.5, color=colour, gid=name, zorder=3)
        end = int(np.argmin(x) if unit else np.argmax(x))
        labels.append(EndLabel(x[end], mean[end], f"{name}\n{metric.text(mean[end])}", colour))
    style.baseline(axes, baseline)
    axes.margins(x=0.02)
    axes.set_xlabel(x_label)
    if unit:
        axes.invert_xaxis()  # so that more is removed to the right, as for removed shares
    else:
        style.percent_axis(axes.xaxis)
    if metric.is_share:
        style.percent_axis(axes.yaxis)
    dense = f"dense\n{metric.text(baseline)}"
    labels.append(EndLabel(axes.get_xlim()[1], baseline, dense, style.MUTED))
    seeds = max(np.atleast_2d(np.asarray(accuracies)).shape[0] for _, accuracies in curves.values())
    spread = f", mean and range of {seeds} seeds" if seeds > 1 else ""
    name = metric.name[0].upper() + metric.name[1:]
    style.heading(axes, _strategy_title(means, baseline, unit, metric), f"{name}{spread}")
    style.label_ends(axes, labels)
    return figure


@takes_as_annotated(DataError)
@styled
def norm_histogram(
    values_by_layer: Mapping[str, ArrayLike], x_label: str = "L1 norm of a filter"
) -> Figure:
    """Plot the distribution of the norms of all filters of all layers.

    Args:
        values_by_layer: layer -> one number per filter; non-finite ones are left out.
        x_label: label of the numbers.
    """
    layers = [np.ravel(np.asarray(values, dtype=float)) for values in values_by_layer.values()]
    norms = np.concatenate([np.empty(0), *layers])
    norms = norms[np.isfinite(norms)]
    if not norms.size:
        return style.message("No norms", "There are no filters to show.")
    figure, axes = style.canvas()
    axes.hist(norms, bins=60, range=(min(0.0, norms.min()), norms.max()), color=style.BLUE)
    middle = float(np.median(norms))
    axes.axvline(middle, color=style.VERMILION, lw=1.2, gid="median")
    axes.annotate(
        f"half of the filters lie below {middle:.3g}",
        (middle, 1),
        xytext=(6, -4),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        va="top",
        color=style.VERMILION,
        fontsize=style.SMALL,
    )
    share = percent(middle / norms.max()) if norms.max() > 0 else "any"
    title = f"Half of the {norms.size:,} filters have less than {share} of the largest norm"
    style.heading(axes, title, f"Number of filters, over {plural(len(layers), 'layer')}")
    axes.set_xlabel(x_label)
    axes.margins(x=0)
    style.count_axis(axes.yaxis)
    return figure


@takes_as_annotated(DataError)
@styled
def matrix(
    values: ArrayLike,
    row_labels: Sequence[str],
    title: str,
    *,
    x_label: str = "filter",
    subtitle: str = "One row per layer",
) -> Figure:
    """Plot a heat map of layers by filters; NaN (a layer without such a filter) is white.

    Args:
        values: array of shape (layers, filters).
        row_labels: one label per layer.
        title: title that states the finding.
        x_label: label of the columns.
        subtitle: what the colours show.
    """
    cells = np.asarray(values, dtype=float)
    if cells.ndim != 2 or len(row_labels) != len(cells):
        raise DataError(
            f"expected values of shape (layers, filters) and one label a layer; received shape "
            f"{cells.shape} and {len(row_labels)} labels"
        )
    figure, axes = style.canvas(height=min(12.0, max(2.6, 1.6 + 0.17 * len(cells))))
    heat = colormaps["viridis_r"].with_extremes(bad="white")
    image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap=heat)
    shown = range(0, len(cells), math.ceil(len(cells) / ROW_LABELS))
    axes.set_yticks(list(shown), [style.short(row_labels[row]) for row in shown], fontsize=7)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_xlabel(x_label)
    style.count_axis(axes.xaxis)
    _colour_bar(figure, image, [axes])
    style.heading(axes, title, subtitle)
    return figure


@takes_as_annotated(DataError)
@styled
def trade_off(
    shares: Sequence[float],
    qualities: Sequence[float],
    names: Sequence[str],
    *,
    knee: str,
    unit: str = "macs",
    measure: str = "accuracy",
) -> Figure:
    """Plot the quality at each budget over the remaining cost, with the knee marked.

    Args:
        shares: share of the dense model's cost at each point.
        qualities: quality of each point, from 0 to 1.
        names: names of the points.
        knee: name of the point to mark.
        unit: unit of the cost.
        measure: name of the quality.
    """
    figure, axes = style.canvas()
    x, y = np.asarray(shares, float), np.asarray(qualities, float)
    order = np.argsort(x)
    axes.plot(x[order], y[order], "o-", ms=4, lw=1.4, color=style.BLUE, gid="frontier")
    axes.set_xscale("log")
    axes.set_xlim(x.min() * 0.9, x.max() * 1.1)
    at = list(names).index(knee)
    style.ring(axes, float(x[at]), float(y[at]))
    axes.annotate(
        f"{knee}: {percent(float(y[at]))}",
        (x[at], y[at]),
        xytext=(8, -14),
        textcoords="offset points",
        gid="knee",
    )
    style.baseline(axes, float(y[int(x.argmax())]))
    named = _UNIT_NAMES.get(unit, unit)
    axes.set_xlabel(f"share of the dense model's {named} that remains")
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if x.min() <= tick <= 1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    style.percent_axis(axes.yaxis)
    kept = f"{percent(float(y[at]))} {measure} with {percent(float(x[at]))} of the {named}"
    style.heading(axes, kept, f"{measure.capitalize()}, at each of {len(x)} points")
    return figure


@takes_as_annotated(DataError)
@styled
def sensitivity(
    curves: Mapping[str, Curve],
    *,
    x_label: str = "share of the group's channels removed",
    y_label: str = "Accuracy",
    higher_is_better: bool = True,
    is_share: bool | None = None,
) -> Figure:
    """Plot the effect of pruning more and more of one group alone; the most sensitive are named.

    Args:
        curves: group -> (amounts, values), both of shape (points,), amounts ascending.
        x_label: label of the amounts.
        y_label: label of the values.
        higher_is_better: whether the values are accuracies; else losses.
        is_share: whether values are shown in percent; None does so for accuracies.
    """
    figure, axes = style.canvas()
    lines = {
        name: (np.asarray(amounts, dtype=float), np.asarray(values, dtype=float))
        for name, (amounts, values) in curves.items()
    }
    ranked = sorted(lines, key=lambda name: _harm(lines[name][1], higher_is_better), reverse=True)
    colours = dict(zip(ranked[:NAMED_GROUPS], style.CYCLE, strict=False))
    labels = []
    for name in reversed(ranked):
        x, y = lines[name]
        colour = colours.get(name, style.EDGE)
        axes.plot(x, y, color=colour, lw=1.6 if name in colours else 0.7, gid=name)
        if name in colours:
            labels.append(EndLabel(x[-1], y[-1], style.short(name), colour))
    axes.set_xlabel(x_label)
    axes.margins(x=0.01)
    style.percent_axis(axes.xaxis)
    is_share = higher_is_better if is_share is None else is_share
    if is_share:
        style.percent_axis(axes.yaxis)
    title = _sensitivity_title(ranked[0], lines[ranked[0]], y_label, higher_is_better, is_share)
    alone = f"{y_label} when one of {plural(len(lines), 'group')} alone is pruned"
    style.heading(axes, title, alone)
    style.label_ends(axes, labels)
    return figure


@takes_as_annotated(DataError)
@styled
def critical(
    by_layer: Mapping[str, ArrayLike],
    classes: Sequence[str] | None = None,
    *,
    threshold: float = 0.0,
) -> Figure:
    """Plot how much each class needs each channel: one panel per layer, most needed on top.

    Args:
        by_layer: layer -> array of shape (channels, classes): loss of the class without the
            channel, or True where the channel is critical to the class.
        classes: names of the classes.
        threshold: value above which a channel matters to a class.
    """
    panels = {name: np.asarray(values, dtype=float) for name, values in by_layer.items()}
    across = min(len(panels), 4 if len(panels) <= 24 else 6)
    down = math.ceil(len(panels) / across)
    width = style.WIDTH if across <= 4 else 11.0
    figure = Figure(figsize=(width, 1.1 + 1.75 * down), layout="constrained")
    highest = max(float(values.max()) for values in panels.values())
    grid = []
    for place, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(down, across, place + 1)
        order = np.argsort(-values.max(axis=1), kind="stable")
        image = axes.imshow(
            values[order],
            aspect="auto",
            interpolation="nearest",
            cmap="Blues",  # what matters to no class is nearly white
            # Square-root scale, so that small values stay visible beside a large one.
            norm=PowerNorm(0.5, min(0.0, threshold), highest),
        )
        lowest_panel = place + across >= len(panels)
        _dress_panel(axes, name, values > threshold, classes if lowest_panel else None)
        grid.append(axes)
    _colour_bar(figure, image, grid)
    matters = sum(int((values > threshold).any(axis=1).sum()) for values in panels.values())
    total = sum(len(values) for values in panels.values())
    title = f"{matters:,} of {total:,} channels matter to some class"
    key = "rows: channels, the most important on top; columns: classes; darker: more important"
    style.heading_of_panels(figure, title, key)
    return figure


@takes_as_annotated(DataError)
def critical_by_class(
    ablation: Ablation, classes: Sequence[str] | None = None, *, best: int | None = None
) -> Figure:
    """Plot which channels each class needs, by the accuracy it loses without each channel.

    Args:
        ablation: ablation in exact mode, with labels, as from ``secateurs.ablate``.
        classes: names of the classes.
        best: show only whether a channel is among this many that a class needs most in its layer,
            as ``critical_channels`` selects them. None shows how much accuracy each class loses.
    """
    seen: list[int] = np.flatnonzero(ablation.images > 0).tolist()
    by_layer: dict[str, Floats] = {}
    for name in ablation.loss:
        if best is None:
            by_layer[name] = np.maximum(ablation.accuracy_loss(name)[:, seen], 0)
            continue
        damage = ablation.damage(name)[:, seen]
        order = np.argsort(-damage, axis=0, kind="stable")
        needed = np.zeros(damage.shape)
        np.put_along_axis(needed, order[:best], 1, axis=0)
        by_layer[name] = needed
    names = None if classes is None else [classes[one] for one in seen]
    return critical(by_layer, names)


def _colour_of(means: Mapping[str, Floats]) -> dict[str, str]:
    """Colours of the curves that have one: all, if they are few."""
    if len(means) <= len(style.CYCLE):
        return dict(zip(means, style.CYCLE, strict=False))
    control = [name for name in means if name == CONTROL]
    others = [name for name in means if name != CONTROL]
    others.sort(key=lambda name: -float(means[name][-1]))
    chosen = [*others[: len(style.CYCLE) - 1 - len(control)], *control, others[-1]]
    return dict(zip(chosen, style.CYCLE, strict=True))


def _over_seeds(curve: Curve) -> tuple[Floats, Floats, Floats, Floats]:
    """Amounts, and the mean, lowest and highest accuracy over seeds at each."""
    amounts, accuracies = (np.atleast_2d(np.asarray(part, dtype=float)) for part in curve)
    known = ~np.isnan(accuracies).all(axis=0)
    accuracies = accuracies[:, known]
    x = np.nanmean(amounts[:, known], axis=0)
    return x, np.nanmean(accuracies, 0), np.nanmin(accuracies, 0), np.nanmax(accuracies, 0)


def _strategy_title(
    means: Mapping[str, tuple[Floats, Floats]],
    baseline: float,
    unit: str | None,
    metric: Metric,
) -> str:
    """State which strategy removes most before the metric falls below the baseline."""
    sign = 1 if metric.higher_is_better else -1
    held = {}
    for name, (x, y) in means.items():
        kept = x[(sign * y >= sign * baseline) & (x > 0)]
        if kept.size:
            held[name] = -kept.min() if unit else kept.max()
    if not held:
        least = max(means, key=lambda name: sign * float(means[name][1][-1]))
        lost = metric.change(float(means[least][1][-1]), baseline)
        if metric != Metric():
            return f"No strategy keeps the dense {metric.name}; {least} comes nearest ({lost})"
        return f"All strategies lose accuracy, {least} least ({lost})"
    best = max(held, key=lambda name: held[name])
    share = f"up to {percent(held[best])} removed"
    reached = f"down to {-held[best]:.3g} {unit}" if unit else share
    return f"{best} keeps the dense {metric.name} {reached}"


def _harm(values: Floats, higher_is_better: bool) -> float:
    """Mean deterioration of the values over the amounts."""
    change = float(values.mean() - values[0])
    return -change if higher_is_better else change


def _sensitivity_title(
    name: str,
    line: tuple[Floats, Floats],
    y_label: str,
    higher_is_better: bool,
    is_share: bool,
) -> str:
    x, y = line
    worst = int(y.argmin() if higher_is_better else y.argmax())
    change = float(y[worst] - y[0])
    by = points(change) if is_share else f"{y_label.lower()} {change:+.3g}"
    return f"{style.short(name)} is the most sensitive: {by} at {100 * x[worst]:.0f} % removed"


def _colour_bar(figure: Figure, image: AxesImage, beside: Sequence[Axes]) -> None:
    bar = figure.colorbar(image, ax=list(beside), fraction=0.03, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)


def _dress_panel(
    axes: Axes, name: str, matters: NDArray[np.bool_], classes: Sequence[str] | None
) -> None:
    """Give a panel a short title with counts, and class names below it if given."""
    count = int(matters.any(axis=1).sum())
    axes.set_title(
        f"{style.short(name, 22)}: {count} of {len(matters)}", fontsize=8, weight="normal", pad=4
    )
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xticks([])
    if classes is not None:
        axes.set_xticks(range(len(classes)), classes, fontsize=6.5, rotation=90)
