"""Terminal output: lines, tables and progress bars."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from secateurs import formatting
from secateurs.channels.network import Network, members
from secateurs.cli.signals import is_main_process
from secateurs.formatting import percent
from secateurs.study.history import Record
from secateurs.training.callbacks import Relay, Watcher
from secateurs.training.metric import Metric

PATIENCE_IN_SECONDS = 2.0
_LAUNCHERS_PATIENCE_IN_SECONDS = 3.0
NOT_KNOWN = "-"

COLUMNS = (
    # heading, width
    ("round", 5),
    ("batch", 7),
    ("channels", 8),
    ("parameters", 10),
    ("removed", 7),
    ("MACs", 7),
    ("after cut", 9),
    ("accuracy", 10),
    ("speed", 7),
    ("proof", 6),
)


def console(*, stderr: bool = False) -> Console:
    """Return a console; a new one each time, so that captured output is captured."""
    return Console(stderr=stderr, emoji=False, highlight=False, soft_wrap=True)


def error_line(message: str) -> None:
    """Print an error as one line on stderr, from one of several processes."""
    process = ""
    if not is_main_process():
        # Processes with the same bad input fail together, and their launcher ends them all when the
        # first one fails. A process that is still running after a while has failed alone.
        time.sleep(_LAUNCHERS_PATIENCE_IN_SECONDS)
        process = f"process {os.environ.get('RANK')}: "
    line = f"secateurs: error: {process}{' '.join(message.split())}"
    console(stderr=True).print(line, markup=False)


def note(message: str) -> None:
    """Print a note as one line on stderr, from the main process only."""
    if os.environ.get("RANK", "0") == "0":
        line = f"secateurs: note: {' '.join(message.split())}"
        console(stderr=True).print(line, markup=False)


@contextmanager
def waiting(stage: str) -> Iterator[None]:
    """Show a spinner during a long step, on a terminal."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield
        return
    with out.status(stage):
        yield


@contextmanager
def bars() -> Iterator[Progress | None]:
    """Show progress bars below the output, on a terminal; None elsewhere."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    ) as shown:
        yield shown


@contextmanager
def rounds_table(*, quiet: bool = False) -> Iterator[Watcher]:
    """Yield a watcher that prints a line per round, with progress bars on a terminal."""
    if quiet:
        yield Watcher()
        return
    with bars() as shown:
        yield RoundTable(shown)


class Doubting(Relay):
    """Prints doubts when a study begins, and passes everything on to another watcher."""

    def __init__(self, watcher: Watcher, doubts: tuple[str, ...]) -> None:
        super().__init__(watcher)
        self._doubts = doubts

    def recorded(self, record: Record) -> None:
        """Print the doubts with the first record, which is the dense model's before training."""
        for doubt in self._doubts:
            note(doubt)
        self._doubts = ()
        super().recorded(record)


class RoundTable(Watcher):
    """Prints a line when a round ends; shows progress bars in between."""

    def __init__(self, bars: Progress | None) -> None:
        self._out = console()
        self._bars = bars
        self._running: list[tuple[TaskID, float]] = []
        self._dense: Record = {}
        self._metric = Metric()
        self._cut: Record = {}
        self._trained: Record = {}

    def begin(self, stage: str, batches: int, done: int = 0) -> None:
        """Add a progress bar, which appears if the stage takes long."""
        if self._bars is not None:
            task = self._bars.add_task(stage, total=batches, completed=done, visible=False)
            self._running.append((task, time.monotonic()))

    def tick(self) -> None:
        """Advance the progress bar."""
        if self._bars is not None:
            task, began = self._running[-1]
            waited = time.monotonic() - began > PATIENCE_IN_SECONDS
            self._bars.update(task, advance=1, visible=waited)

    def end(self) -> None:
        """Remove the progress bar."""
        if self._bars is not None:
            self._bars.remove_task(self._running.pop()[0])

    def recorded(self, record: Record) -> None:
        """Print a line if the record ends a round."""
        kind = record["kind"]
        key = self._metric.key
        if kind == "dense":
            self._dense = self._cut = record
            self._metric = Metric.of(record)
            names = {"accuracy": self._metric.name}
            self._print(names.get(name, name)[:width] for name, width in COLUMNS)
        elif kind == "train":
            every = (record[key], self._trained.get(key, record[key]))
            self._trained = record | {key: max(every, key=self._metric.score)}
        elif kind == "tournament":
            self._round_ended(None)
            self._out.print(f"auto, round {record['round']}: {record['reason']}", markup=False)
        elif kind == "recovered":
            self._out.print(f"round {record['round']}: recovered by repair", markup=False)
        else:
            self._round_ended(record if kind == "speed" else None)
            self._cut = record if kind == "prune" else self._cut

    def _round_ended(self, speed: Record | None) -> None:
        if not self._trained:
            return  # its line has been printed
        cut, metric = self._cut, self._metric
        self._print(
            (
                f"{self._trained['round']}",
                f"{self._trained['batch']:,}",
                f"{cut['channels']:,}",
                formatting.count(cut["params"]),
                percent(1 - cut["params"] / self._dense["params"]),
                formatting.count(cut["macs"]),
                metric.text(cut[metric.key]) if metric.key in cut else NOT_KNOWN,
                metric.text(self._trained[metric.key]),
                f"{speed['ratio']:.2f} x" if speed else NOT_KNOWN,
                f"{cut['max_difference']:.0e}" if "max_difference" in cut else NOT_KNOWN,
            )
        )
        self._trained = {}

    def _print(self, cells: Iterable[str]) -> None:
        line = "  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))
        self._out.print(line, markup=False)


def print_network(network: Network, out: Console) -> None:
    """Print the network's table; fold long cells on a narrow terminal."""
    whole = str(network)
    if not out.is_terminal or max(map(len, whole.splitlines())) <= out.width:
        out.print(whole, markup=False)
        return
    total = network.cost()
    out.print(whole.partition("\n")[0] + "\n", markup=False)
    groups = _folding("group", "channels", "tensors it touches", "parameters", "MACs")
    for group in network.groups:
        left = network.cost_of(network.alive(group.channels))
        groups.add_row(
            group.name,
            str(len(group)),
            ", ".join(dict.fromkeys(member.layer for member in group.members)),
            percent(1 - left.params / max(1, total.params)),
            percent(1 - left.macs / max(1, total.macs)),
        )
    out.print(groups, soft_wrap=False)
    if network.frozen:
        out.print()
        frozen = _folding("cannot be pruned because", "indices", "in")
        for why, all_of_it in network.frozen_for.items():
            indices = sum(one.count for one in all_of_it)
            frozen.add_row(why, str(indices), ", ".join(members(all_of_it)))
        out.print(frozen, soft_wrap=False)
    for note in network.notes:
        out.print(f"\n{note}", markup=False)


def _folding(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        is_text = number == 0 or name in ("tensors it touches", "in")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    return table
