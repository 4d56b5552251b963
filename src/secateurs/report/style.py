"""How every figure looks and is written: colours, fonts, labels beside lines, PNG and SVG."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.style as mpl_style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secateurs.arguments import takes_as_annotated
from secateurs.errors import DataError
from secateurs.files import write_atomically

# After Okabe and Ito (2008), told apart by colour-blind readers; darker, as text is set in them.
BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY = (
    "#0072b2",
    "#c8500a",
    "#00795c",
    "#a8507f",
    "#946200",
    "#3d93c9",
)
MADE_BY = "secateurs"

CYCLE = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY)
INK, MUTED, EDGE, FAINT, SHADE = "#1f2933", "#5f6b7a", "#aab3bd", "#dfe3e8", "#f3f5f7"
WIDTH, HEIGHT = 8.0, 4.4
SMALL = 8.5

OURS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": EDGE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "svg.fonttype": "path",
    "svg.hashsalt": "secateurs",
}

# A decorator (and a context): what it wraps is drawn in our style whatever the user's settings are,
# and leaves them as they were.
styled = mpl_style.context(["default", OURS])


def canvas(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def heading(axes: Axes, title: str, subtitle: str) -> None:
    """The finding, and under it what the height shows."""
    axes.set_title(title, pad=27, wrap=True)
    axes.annotate(
        subtitle,
        (0, 1),
        xytext=(0, 10),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
    )


def heading_of_panels(figure: Figure, title: str, key: str) -> None:
    """The finding above all panels, and below them how to read one."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=OURS["axes.titlesize"])
    figure.supxlabel(key, color=MUTED, size=SMALL)


def message(title: str, explanation: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, axes = canvas(height=2.0)
    axes.set_axis_off()
    axes.set_title(title)
    axes.text(0, 0.9, explanation, transform=axes.transAxes, va="top", color=MUTED)
    return figure


def percent_axis(axis: Axis) -> None:
    """Ticks as percentages of one. The limits of the axes must be final."""
    low, high = sorted(axis.get_view_interval())
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axis.set_ticks([tick for tick in ticks if low <= tick <= min(high, 1 + 1e-9)])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def count_axis(axis: Axis) -> None:
    """Ticks as whole numbers with their thousands set apart."""
    axis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def baseline(axes: Axes, height: float) -> None:
    """A dashed line at what everything is compared with."""
    axes.axhline(height, color=MUTED, lw=1, ls=(0, (5, 3)), gid="dense", zorder=1.5)


def ring(axes: Axes, x: float, y: float) -> None:
    """A ring around the point of the best model."""
    axes.plot(
        [x],
        [y],
        "o",
        ms=9,
        mfc="none",
        mec=GREEN,
        mew=1.8,
        clip_on=False,
        zorder=5,
        gid="best",
    )


def short(name: str, longest: int = 32) -> str:
    """A layer's dotted name, parts of its beginning left out where it is long."""
    if len(name) <= longest:
        return name
    end = name[1 - longest :]
    whole_parts = end[end.find(".", 0, longest // 3) + 1 :]
    return f"\N{HORIZONTAL ELLIPSIS}{whole_parts}"


def cycle(number: int) -> list[str]:
    """As many colours as asked for; they come round again where there are not so many."""
    return [CYCLE[place % len(CYCLE)] for place in range(number)]


@dataclass(frozen=True, slots=True)
class EndLabel:
    """A label in the right margin.

    Attributes:
        x: where the line that it names ends, in the data's units.
        y: the height at which it ends.
        text: the label; may hold several lines.
        colour: of the line and the label.
    """

    x: float
    y: float
    text: str
    colour: str


def label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Write each label in the right margin at its line's height, moved where two would overlap.

    The limits of the axes must be final.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    figure.draw_without_rendering()  # only then is the height of the axes known
    points = axes.get_window_extent().height * 72 / figure.dpi
    bottom, top = axes.get_ylim()
    ordered = sorted(labels, key=lambda label: label.y)
    wanted = [points * (label.y - bottom) / (top - bottom) for label in ordered]
    sizes = [1.45 * SMALL * (1 + label.text.count("\n")) for label in ordered]
    for label, height in zip(ordered, spread_out(wanted, sizes, points), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.02, height / points),
            textcoords="axes fraction",
            color=label.colour,
            fontsize=SMALL,
            linespacing=1.15,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "lw": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
            },
        )


def spread_out(wanted: Sequence[float], sizes: Sequence[float], room: float) -> list[float]:
    """Centres for things of these sizes, as near to where wanted as they can be without overlap.

    Args:
        wanted: centres, rising.
        sizes: extent of each.
        room: they are kept between 0 and this, if they fit.

    Returns:
        The centres, rising. The sum of squared moves is the smallest there is (before ``room``).
    """
    offsets = [sum(sizes[:place]) + size / 2 for place, size in enumerate(sizes)]
    # With the offsets taken away, "no overlap" reads "not falling": pool adjacent violators.
    pools: list[list[float]] = []
    for centre, offset in zip(wanted, offsets, strict=True):
        pools.append([centre - offset])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    highest = max(0.0, room - sum(sizes))
    return [
        min(max(level, 0.0), highest) + offset
        for level, offset in zip(levels, offsets, strict=True)
    ]


@takes_as_annotated(DataError)
@styled
def save(figure: Figure, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write ``name``.png (150 dots an inch) and ``name``.svg, each whole or not at all.

    The same figure gives the same bytes.

    Raises:
        StudyError: a file cannot be written.
    """
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    write_atomically(png, render(figure, "png"))
    write_atomically(svg, render(figure, "svg"))
    return png, svg


@styled
def render(figure: Figure, kind: str) -> bytes:
    """A figure as "png" or "svg", without a date and so the same each time."""
    out = io.BytesIO()
    # Starting over removes only pictures that bear this name.
    signed = {"Date": None, "Creator": MADE_BY} if kind == "svg" else {"Software": MADE_BY}
    figure.savefig(out, format=kind, dpi=150, metadata=signed)
    return out.getvalue()
