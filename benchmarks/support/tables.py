"""Markdown tables, and putting them into a page between two marks."""

from collections.abc import Sequence
from pathlib import Path


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def put(page: Path, mark: str, content: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``; else add it."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    present = page.read_text() if page.exists() else ""
    block = f"{start}\n{content}\n{end}"
    if start in present:
        head, _, rest = present.partition(start)
        present = head + block + rest.partition(end)[2]
    else:
        present = f"{present.rstrip()}\n\n{block}\n".lstrip()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(present)
