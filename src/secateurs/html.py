"""A network, a cut and a report as a notebook shows them."""

from __future__ import annotations

from html import escape


def text(what: object) -> str:
    """What ``print`` shows, in the columns it has, for a notebook.

    Example:
        >>> text("a < b")
        '<pre style="overflow-x:auto;line-height:1.4">a &lt; b</pre>'
    """
    return f'<pre style="overflow-x:auto;line-height:1.4">{escape(str(what))}</pre>'
