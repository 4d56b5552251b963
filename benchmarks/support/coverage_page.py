"""docs/coverage.md: what the coverage benchmark found, in tables."""

import re
from collections.abc import Callable, Iterable, Mapping
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from support import zoo
from support.tables import markdown, put

Result = Mapping[str, Any]
MARK = "coverage"
LONGEST = 160


def write(page: Path, results: Mapping[str, Result], counts: Callable[[Result], bool]) -> None:
    """Put the tables between their marks on the page; what is written around them stays."""
    names = list(dict.fromkeys(result["name"] for result in results.values()))
    parts = [_summary(results, names, counts)]
    for title, names_of_section in _sections(names).items():
        parts.append(f"## {title}\n\n{_table(results, names_of_section, counts)}")
    put(page, MARK, "\n\n".join(parts))


def _sections(names: Iterable[str]) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {
        "torchvision's classifiers": [],
        "one of every timm module": [],
        "other models": [],
    }
    classifiers, modules, others = sections.values()
    for name in names:
        if name in zoo.OTHERS:
            others.append(name)
        else:
            (modules if name.startswith("timm") else classifiers).append(name)
    return {
        title: names_of_section for title, names_of_section in sections.items() if names_of_section
    }


def _summary(
    results: Mapping[str, Result], names: Iterable[str], counts: Callable[[Result], bool]
) -> str:
    rows = []
    for title, names_of_section in _sections(names).items():
        tools = [
            [results.get(f"{tool} {name}") for name in names_of_section]
            for tool in ("ours", "theirs")
        ]
        both = [
            pair
            for pair in zip(*tools, strict=True)
            if all(result is not None and "error" not in result for result in pair)
        ]
        times = [median([pair[place]["seconds"] for pair in both] or [nan]) for place in (0, 1)]
        ratio = median([pair[0]["seconds"] / pair[1]["seconds"] for pair in both] or [nan])
        shown = [*(f"{seconds:.2f} s" for seconds in times), f"{ratio:.2f}"] if both else [""] * 3
        rows.append([title, *(_count_covered(tool, counts) for tool in tools), *shown])
    columns = (
        "",
        "Secateurs",
        "Torch-Pruning",
        "median time, Secateurs",
        "median time, Torch-Pruning",
        "median ratio of times",
    )
    return markdown(columns, rows)


def _count_covered(results: Iterable[Result | None], counts: Callable[[Result], bool]) -> str:
    tried = [result for result in results if result is not None]
    return f"{sum(map(counts, tried))} of {len(tried)}" if tried else "not run"


def _table(
    results: Mapping[str, Result], names: Iterable[str], counts: Callable[[Result], bool]
) -> str:
    columns = (
        "model",
        "counts",
        "time",
        "parameters before",
        "after",
        "largest difference",
        "what stayed, and why",
        "Torch-Pruning",
    )
    rows = []
    for name in names:
        ours, theirs = results[f"ours {name}"], results.get(f"theirs {name}")
        short = name if name in zoo.OTHERS else name.partition(":")[2]
        rows.append([short, *_ours(ours, counts), _theirs(theirs, counts)])
    return markdown(columns, rows)


def _ours(result: Result, counts: Callable[[Result], bool]) -> list[str]:
    if "error" in result:
        return ["no", "", "", "", "", _short(result["error"])]
    return [
        "yes" if counts(result) else "no",
        f"{result['seconds']:.2f} s",
        f"{result['before']:,}",
        f"{result['after']:,} (-{100 * result['removed']:.0f} %)",
        f"{result['difference']:.1e}",
        _short(_why(result)),
    ]


def _theirs(result: Result | None, counts: Callable[[Result], bool]) -> str:
    if result is None:
        return "not run"
    if "error" in result:
        return f"no: {_short(result['error'], 70)}"
    verdict = "yes" if counts(result) else "no"
    return f"{verdict}, {result['seconds']:.2f} s, -{100 * result['removed']:.0f} %"


def _why(result: Result) -> str:
    """The reasons, those that hold most channels first; and what makes the proof inexact."""
    held: dict[str, int] = {}
    for _, count, reasons in result["frozen"]:
        for reason in reasons[:1]:
            held[reason] = held.get(reason, 0) + count
    most = sorted(held.items(), key=lambda item: -item[1])
    reasons_shown = [f"{count}: {reason}" for reason, count in most[:2]]
    if result["inexact"]:
        reasons_shown.append(f"inexact: {', '.join(result['inexact'])}")
    return "; ".join(reasons_shown)


def _short(text: str, longest: int = LONGEST) -> str:
    """One line without the marks of a table, cut where it is too long."""
    text = re.sub(r"\S*/site-packages/", "", text.replace("|", "/"))
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
