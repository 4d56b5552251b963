"""Plain-text tables, and numbers formatted for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format a table as text; the columns whose numbers are in ``right`` are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        drawn.add_column(
            column, justify="right" if number in right else "left", no_wrap=True, overflow="ignore"
        )
    for row in rows:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=1000, no_color=True, markup=False, emoji=False, highlight=False).print(
        drawn
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def count(number: float) -> str:
    """1234567 -> '1.23 M'."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number:.3g}"
    return f"{number:g}"


def percent(share: float) -> str:
    """0.5 -> '50.0 %'."""
    return f"{100 * share:.1f} %"


def points(change: float) -> str:
    """0.003 -> '+0.3 points', a difference of two fractions."""
    shown = round(100 * change, 1) + 0.0  # so that -0.04 becomes 0.0, not -0.0
    sign = "\N{MINUS SIGN}" if shown < 0 else "+" if shown > 0 else "\N{PLUS-MINUS SIGN}"
    return f"{sign}{abs(shown):.1f} points"


def megabytes(number: float) -> str:
    """Bytes as megabytes of 1,000,000 bytes."""
    return f"{number / 1e6:.2f} MB"


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> '0-2, 7'."""
    parts: list[str] = []
    start = previous = None
    for number in [*numbers, None]:
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = number
    return ", ".join(parts)


def notebook_html(shown: object) -> str:
    """Format what ``print`` shows as HTML for a notebook, keeping its columns.

    Example:
        >>> notebook_html("a < b")
        '<pre style="overflow-x:auto;line-height:1.4">a &lt; b</pre>'
    """
    return f'<pre style="overflow-x:auto;line-height:1.4">{escape(str(shown))}</pre>'
