"""The figure of a benchmark: measured speedups beside what the MACs would suggest."""

from __future__ import annotations

from matplotlib.figure import Figure

from secateurs.measurement.benchmarks import Benchmark
from secateurs.report import style
from secateurs.report.style import styled


@styled
def speedups(benchmark: Benchmark) -> Figure:
    """Draw a bar with quartiles for each model and set of conditions, and mark the MACs' ratio."""
    first = benchmark.rows[0].model
    rows = [row for row in benchmark.rows if row.model != first] or list(benchmark.rows)
    figure, axes = style.canvas()
    places = range(len(rows))
    middles = [row.speedup for row in rows]
    lows = [max(0.0, row.speedup - row.speedup_range[0]) for row in rows]
    highs = [max(0.0, row.speedup_range[1] - row.speedup) for row in rows]
    axes.barh(places, middles, xerr=(lows, highs), color=style.BLUE, height=0.6, gid="speedups")
    axes.plot(
        [row.macs_ratio for row in rows],
        places,
        "|",
        ms=18,
        mew=2,
        color=style.VERMILION,
        gid="fewer-macs",
    )
    axes.axvline(1.0, color=style.FAINT, lw=1, zorder=0)
    axes.set_yticks(list(places), [f"{row.model}\n{row.conditions}" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"speedup over {first}; the mark: reduction of multiply-accumulates, as a factor"
    )
    style.heading(axes, "Speedup for fewer MACs", "Bars are medians, lines the quartiles")
    return figure
