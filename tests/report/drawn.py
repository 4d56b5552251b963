"""What a figure shows, read from its artists."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def artist(axes: Axes, gid: str):
    found = [one for one in axes.get_children() if one.get_gid() == gid]
    assert len(found) == 1, f"{len(found)} artists named {gid}"
    return found[0]


def title(figure: Figure) -> str:
    return figure.get_suptitle() or figure.axes[0].get_title(loc="left")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def boxes(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every visible text and its box on the page."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = [tick.label1 for tick in axis.get_major_ticks()]
            low, high = sorted(axis.get_view_interval())
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True):
                if not axes.axison or not low - 1e-9 <= place <= high + 1e-9:
                    hidden.add(tick.label1)
            every = [tick.label1 for tick in axis.majorTicks + axis.minorTicks]
            hidden.update(set(every) - set(shown))
    return [
        (text.get_text(), Text.get_window_extent(text).extents)
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    return colliding(boxes(figure))


def colliding(named: list[tuple[str, tuple[float, float, float, float]]]) -> list[tuple[str, str]]:
    """Pairs of texts of which one covers part of the other."""
    edges = np.array([box for _, box in named])
    apart = 0.5  # of a pixel: boxes may touch
    found = []
    for place, (name, (left, bottom, right, top)) in enumerate(named):
        rest = edges[place + 1 :]
        hits = (
            (rest[:, 0] < right - apart)
            & (rest[:, 2] > left + apart)
            & (rest[:, 1] < top - apart)
            & (rest[:, 3] > bottom + apart)
        )
        found += [(name, named[place + 1 + hit][0]) for hit in np.flatnonzero(hits)]
    return found
