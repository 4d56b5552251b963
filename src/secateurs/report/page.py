"""A study's page: one HTML file with its figures, its tables and how to repeat it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from secateurs import formatting
from secateurs.arguments import takes_as_annotated
from secateurs.errors import DataError
from secateurs.files import write_atomically
from secateurs.formatting import megabytes, percent
from secateurs.report import figures, style
from secateurs.report.summary import Round, Summary, conditions, faster, plural, summarise
from secateurs.study.history import History
from secateurs.training.metric import Metric

NOT_KNOWN = "\N{EN DASH}"
ARROW = "\N{RIGHTWARDS ARROW}"
FILE_NAME = "report.html"

FIGURES: tuple[tuple[str, Callable[[History], Figure], str], ...] = (
    (
        "accuracy",
        figures.accuracy_over_batches,
        "Validation {metric} while the dense model is trained, then pruned and fine-tuned "
        "round by round. Each vertical line marks a cut; the dot on it is the {metric} just "
        "after the cut.",
    ),
    (
        "size",
        figures.relative_size,
        "Learned parameters and multiply-accumulates relative to the dense model.",
    ),
    (
        "speed",
        figures.images_per_second,
        "Throughput of the pruned model relative to the dense model, both measured alternately "
        "in the same run. Bars span the quartiles.",
    ),
    (
        "widths",
        figures.widths,
        "Filters of each layer in the dense and in the pruned model. The scale is logarithmic: "
        "halving a layer has the same length everywhere.",
    ),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A key figure of the page: its name, its value, and a detail such as the value before."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on the page, embedded in ``source`` as a data URI."""

    name: str
    source: str
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the row with index ``marked`` is highlighted."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ProofSummary:
    """Summary of the proofs of all cuts, and operations that they could not cover exactly."""

    sentence: str
    inexact: tuple[str, ...]


@takes_as_annotated(DataError)
def write(
    history: History,
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    configuration: Mapping[str, object] | None = None,
) -> Path:
    """Write a study's figures (PNG and SVG) and its page, ``report.html``, into a folder.

    The page needs no other file and makes no network requests.

    Args:
        history: history of the study, on which the page is based alone.
        folder: created if it does not exist.
        title: title of the page; None uses the names of the model and the data.
        configuration: shown as a table. Its "command", a text or a list of arguments, is shown as
            the way to repeat the study.

    Returns:
        The page's path.

    Raises:
        StudyError: the history lacks the record of the dense model, or a file cannot be written.
    """
    summary = summarise(history)
    dense = history.last("dense") or {}
    settings = dict(configuration or {})
    command = settings.pop("command", "")
    page = template("page.html.j2").render(
        title=title or _title(dense),
        headline=_headline(summary),
        facts=list(_facts(summary)),
        ending=_ending(summary),
        pictures=list(_pictures(history, Path(folder))),
        proof=_proof(summary),
        rounds=_rounds(summary),
        widths=_widths(summary),
        command=command if isinstance(command, str) else shlex.join(map(str, _as_list(command))),
        settings=list(_settings(dense, settings)),
    )
    path = Path(folder) / FILE_NAME
    write_atomically(path, page.encode())
    return path


def template(name: str) -> Template:
    """Load a template of this package; all pages share their style."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = _unbroken
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["css"] = Markup(_source("page.css"))  # noqa: S704 - our own file
    environment.globals["script"] = Markup(script)  # noqa: S704 - our own file
    environment.globals["script_hash"] = Markup(f"sha256-{digest}")  # noqa: S704 - of that file
    return environment.from_string(_source(name))


def _source(name: str) -> str:
    return files("secateurs.report").joinpath(name).read_text(encoding="utf-8")


def _unbroken(sentence: str) -> str:
    """Join numbers with their units by no-break spaces."""
    for unit in ("%", "points", "MB"):
        sentence = sentence.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}")
    return sentence


def _title(dense: Mapping[str, object]) -> str:
    named = " on ".join(str(dense[key]) for key in ("model", "data") if dense.get(key))
    return f"Pruning {named}".strip()


def _pictures(history: History, folder: Path) -> Iterator[Picture]:
    """Draw and save each figure that has something to show."""
    for name, draw, caption in FIGURES:
        if name == "speed" and not history.of("speed"):
            continue
        text = caption.format(metric=Metric.of(history.last("dense")).name)
        yield picture(name, draw(history), text, folder)


def picture(name: str, figure: Figure, caption: str, folder: Path) -> Picture:
    """Save a figure, and embed it for a page."""
    _, svg = style.save(figure, folder, name)
    source = base64.b64encode(svg.read_bytes()).decode()
    return Picture(name, f"data:image/svg+xml;base64,{source}", caption)


def _headline(summary: Summary) -> str:
    """State the main result in one sentence."""
    if not summary.best.number:
        return f"{summary.headline()}."
    parts = [
        f"{percent(summary.params_removed)} of the parameters and "
        f"{percent(summary.macs_removed)} of the MACs removed"
    ]
    if summary.best.speed:
        parts.append(faster(summary.best.speed["ratio"]))
    metric = summary.metric
    for name, (value, dense) in _accuracies(summary).items():
        parts.append(f"{name} {metric.name} {metric.text(value)} ({metric.change(value, dense)})")
    return ", ".join(parts) + ("." if summary.stop else " so far.")


def _accuracies(summary: Summary) -> dict[str, tuple[float, float]]:
    """Metric of the best and of the dense model, on each split where both are known."""
    stop, key = summary.stop or {}, summary.metric.key
    pairs = {
        "validation": (summary.accuracy, summary.dense_accuracy),
        "test": (stop.get(f"test_{key}"), stop.get(f"dense_test_{key}")),
    }
    return {
        name: (best, dense)
        for name, (best, dense) in pairs.items()
        if best is not None and dense is not None
    }


def _facts(summary: Summary) -> Iterator[Fact]:
    dense, best, minus = summary.dense, summary.best, "\N{MINUS SIGN}"
    if best.number:
        sizes = f"{formatting.count(dense.params)} {ARROW} {formatting.count(best.params)}"
        weights = f"{megabytes(dense.bytes)} {ARROW} {megabytes(best.bytes)}"
        removed = f"{minus}{percent(summary.params_removed)}"
        yield Fact("Parameters", removed, f"{sizes}; {weights}")
        macs = f"{formatting.count(dense.macs)} {ARROW} {formatting.count(best.macs)}"
        yield Fact(
            "Multiply-accumulates (MACs)",
            f"{minus}{percent(summary.macs_removed)}",
            macs,
        )
    if best.speed:
        was, now = best.speed["dense_images_per_second"], best.speed["images_per_second"]
        # Ratios are measured pairwise, so noise affects both alike; the medians may drift apart.
        spread = f"half of the pairs {best.speed['low']:.2f} to {best.speed['high']:.2f}"
        detail = f"{spread}; medians {was:,.0f} {ARROW} {now:,.0f}; {conditions(best.speed)}"
        yield Fact("Images a second", _times(best.speed["ratio"]), detail)
    metric = summary.metric
    for name, (value, before) in _accuracies(summary).items():
        detail = f"dense {metric.text(before)}, {metric.change(value, before)}"
        yield Fact(
            f"{name.capitalize()} {metric.name}", metric.text(value), detail if best.number else ""
        )


def _ending(summary: Summary) -> str:
    if summary.stop is None:
        return f"The study has not ended; it is in round {summary.best.number}."
    reason = str(summary.stop.get("reason", "")).rstrip(".")
    return (
        f"The study ended after {plural(len(summary.rounds), 'round')}"
        f"{': ' if reason else ''}{reason}. The model kept is that of round {summary.best.number}."
    )


def _proof(summary: Summary) -> ProofSummary:
    """Summarise the proofs: the largest difference, and whether all are within tolerance."""
    proven = [one for one in summary.rounds if one.max_difference is not None]
    operations = [operation for one in summary.rounds for operation in one.inexact]
    inexact = tuple(dict.fromkeys(operations))
    if not proven:
        return ProofSummary("No proof of a cut has been recorded.", inexact)
    worst = max(proven, key=lambda one: one.max_difference or 0.0)
    within = [
        one for one in proven if one.tolerance is None or (one.max_difference or 0) <= one.tolerance
    ]
    allowed = "" if worst.tolerance is None else f", where {worst.tolerance:.1e} was allowed"
    return ProofSummary(
        "After every cut the pruned model, and the dense model made to ignore the removed "
        "channels, run on the same inputs. The largest difference of their outputs, over all "
        "rounds, was "
        f"{worst.max_difference:.1e} (round {worst.number}){allowed}; {len(within)} of "
        f"{plural(len(summary.rounds), 'cut')} passed.",
        inexact,
    )


def _rounds(summary: Summary) -> Table:
    every = (summary.dense, *summary.rounds)
    shares = summary.shares_removed()
    return Table(
        columns=(
            "round",
            "channels",
            "parameters",
            "removed",
            "MACs",
            f"{summary.metric.name} after the cut",
            "batches trained",
            "after training",
            "throughput relative to dense",
            "proof: largest difference",
        ),
        rows=tuple(_round_cells(one, shares[one.number], summary.metric) for one in every),
        marked=every.index(summary.best) if summary.stop else None,
        note=f"Round 0 is the dense model. The {summary.metric.name} is of the validation data."
        + (" The model kept is set in bold." if summary.stop else "")
        + (f" It took {summary.effort_text}." if summary.effort_text else ""),
    )


def _round_cells(one: Round, removed: float, metric: Metric) -> tuple[str, ...]:
    return (
        f"{one.number}",
        f"{one.channels:,}",
        f"{one.params:,}",
        percent(removed),
        f"{one.macs:,}",
        _or_not_known(one.after_cut, metric.text),
        "0, recovered by repair" if one.by_repair else f"{one.end - one.start:,}",
        _or_not_known(one.accuracy, metric.text),
        NOT_KNOWN if one.speed is None else f"{one.speed['ratio']:.2f}",
        _or_not_known(one.max_difference, "{:.1e}".format),
    )


def _widths(summary: Summary) -> Table:
    rows = []
    for layer, before in summary.dense.widths.items():
        after = summary.best.widths.get(layer, 0)
        rows.append((layer, f"{before:,}", f"{after:,}", percent(1 - after / before)))
    return Table(("layer", "filters before", "after", "removed"), tuple(rows))


def _settings(
    dense: Mapping[str, object], configuration: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Settings of the study: those in the history, then the configuration, flattened."""
    given = {key: dense[key] for key in ("model", "data", "criterion", "seed") if key in dense}
    yield from flat({**given, **configuration})


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested settings to pairs of 'outer.inner' and text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", shown


def _as_list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]


def _times(ratio: float) -> str:
    return f"{ratio:.2f} \N{MULTIPLICATION SIGN}"


def _or_not_known(value: float | None, show: Callable[[float], str]) -> str:
    return NOT_KNOWN if value is None else show(value)
