"""``secateurs compare``: strategies held against each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from secateurs import models
from secateurs.backends import backend_of
from secateurs.cli.options import options_in, options_of, with_options
from secateurs.cli.show import bars, console
from secateurs.cli.tasks import TASK_OPTIONS, command_line, task_from
from secateurs.cli.trust import check_code, note_code, refuse_trust
from secateurs.cli.vocabulary import HELP
from secateurs.comparison import (
    Comparison,
    ComparisonCallback,
    DenseResult,
    Executor,
    JobRunner,
    Outcome,
    ProcessExecutor,
    RayExecutor,
    ResultStore,
    SerialExecutor,
    learner_factory,
    run_comparison,
)
from secateurs.errors import SecateursError
from secateurs.models.keras_files import is_keras_file
from secateurs.settings.training import Training
from secateurs.training.metric import Metric
from secateurs.training.task import ready_metric

_WHERE = "Output and control"
_OWN_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    *TASK_OPTIONS,
    ("directory", str, _WHERE, HELP["directory"]),
    ("resume", str, _WHERE, HELP["resume"]),
    ("trust", bool, _WHERE, HELP["trust"]),
    ("fresh", bool, _WHERE, HELP["fresh"]),
    (
        "jobs",
        int,
        _WHERE,
        "Number of jobs to run in parallel on this machine. [dim]\\[default: 1][/dim]",
    ),
    ("ray", str, _WHERE, "Ray cluster to run on: its address, auto, or local to start one here."),
    ("quiet", bool, _WHERE, HELP["quiet"]),
)
_OTHER_NAMES = {"batches": "train_batches", "precision": "train_precision"}
_LISTS = {"strategies": str, "amounts": float, "skip": str}
_TOLD = (
    *("strategies", "amounts", "seeds", "scope", "floor", "multiple", "skip"),
    *("unit", "rounds", "repair", "rewind", "calibration_batches", "judge_on"),
)
_WITH_RESUME = {"resume", "trust", "jobs", "ray", "quiet"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    options = options_of(Comparison, "What to compare", only=_TOLD)
    training = options_of(Training, "Training", _OTHER_NAMES)
    app.command("compare")(
        with_options(compare_command, [*options_in(_OWN_OPTIONS), *options, *training])
    )


def compare_command(**options: Any) -> None:
    """Prune the same models by several strategies, train them alike, and compare the results.

    Every strategy removes every amount from the dense model of every seed. Each result is saved
    when it is ready, so the same command continues after an interruption. Writes tables (CSV,
    JSON), figures (PNG, SVG) and compare.html.

    Try:

      secateurs compare vanilla_cnn --data digits --strategies l1,apoz,random

      secateurs compare resnet18 --data fashion-mnist --strategies l2,fisher@network
      --amounts 0.5,0.9 --seeds 3 --train-batches 2000 --fine-tune-batches 500 --jobs 2

      secateurs compare --resume runs/compare-resnet18-fashion-mnist --ray auto
    """
    given = {name: value for name, value in options.items() if value not in (None, [])}
    comparison, directory = _resume(given) if "resume" in given else _configure(given)
    crew = _crew(given, comparison)
    try:
        with _progress(comparison, quiet=bool(given.get("quiet"))) as callback:
            results = run_comparison(
                comparison,
                directory,
                crew,
                fresh=bool(given.get("fresh", False)),
                callback=callback,
            )
    except KeyboardInterrupt:
        console(stderr=True).print(f"\ncontinue with: secateurs compare --resume {directory}")
        raise
    out = console()
    out.print(f"\n{results}", markup=False)
    out.print(f"\nReport: {directory / 'compare.html'}", markup=False)


def _resume(given: Mapping[str, Any]) -> tuple[Comparison, Path]:
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _WITH_RESUME]
    if others:
        raise SecateursError(
            f"--resume continues a comparison with its own settings; received {', '.join(others)} "
            "too. Leave that out, or give the whole command without --resume to add strategies, "
            "amounts or seeds."
        )
    ledger = ResultStore.open(given["resume"])
    trust = bool(given.get("trust", False))
    check_code(ledger.comparison, ledger.directory, "compare", trust=trust)
    return ledger.comparison, ledger.directory


def _configure(given: Mapping[str, Any]) -> tuple[Comparison, Path]:
    refuse_trust(given)
    names = {field: _OTHER_NAMES.get(field, field) for field in Training.model_fields}
    training = Training(**{field: given[name] for field, name in names.items() if name in given})
    chosen = {name: given[name] for name in _TOLD if name in given}
    chosen |= {name: _split_names(name, chosen[name]) for name in _LISTS if name in chosen}
    task = task_from(given, training.seed, "secateurs compare vanilla_cnn --data digits")
    if is_keras_file(task.model):  # trained as it was compiled
        opened = models.build(task.model, **task.model_options)
        training = backend_of(opened).default_training(opened, training)
    comparison = Comparison(
        task=task,
        metric=ready_metric(task.learning, task.metric).record_fields.get("metric", {}),
        training=training,
        command=command_line("compare", given),
        **chosen,
    )
    default = f"compare-{given['model']}-{given['data']}"
    plain = Path("runs") / re.sub("[^A-Za-z0-9_.]+", "-", default)
    return note_code(comparison), Path(given.get("directory", plain))


def _split_names(name: str, values: list[Any]) -> list[Any]:
    """['l1,apoz', 'random'] -> ['l1', 'apoz', 'random']."""
    parts = [part.strip() for value in values for part in str(value).split(",") if part.strip()]
    try:
        return [_LISTS[name](part) for part in parts]
    except ValueError as error:
        raise SecateursError(
            f"--{name}: expected numbers separated by commas; received {', '.join(parts)}"
        ) from error


def _crew(given: Mapping[str, Any], comparison: Comparison) -> Executor:
    count = given.get("jobs", 1)
    if count < 1:
        raise SecateursError(f"--jobs: expected a number of at least 1; received {count}")
    if "ray" in given:
        return RayExecutor(given["ray"])
    if count > 1:
        return ProcessExecutor(count)
    return SerialExecutor(JobRunner(comparison, learner_factory(comparison)))


@contextmanager
def _progress(comparison: Comparison, *, quiet: bool) -> Iterator[ComparisonCallback]:
    """Print a line per job; on a terminal, show a progress bar."""
    if quiet:
        yield ComparisonCallback()
        return
    with bars() as shown:
        yield JobLines(shown, Metric.of({"metric": comparison.metric or None}))


class JobLines(ComparisonCallback):
    """Prints a line for each finished job; on a terminal, shows a progress bar."""

    def __init__(self, bars: Progress | None, metric: Metric) -> None:
        self._out = console()
        self._metric = metric
        self._bars = bars
        self._jobs = self._done = 0

    def begin(self, jobs: int, done: int) -> None:
        """Note the number of jobs."""
        self._jobs, self._done = jobs, done
        if self._bars is not None:
            self._bars.add_task("jobs", total=jobs, completed=done)
        if done:
            self._out.print(f"{done} of {jobs} jobs are already done", markup=False)

    def trained(self, dense: DenseResult) -> None:
        """Print the accuracy of a dense model."""
        self._out.print(
            f"dense model, seed {dense.seed}: {self._metric.text(dense.accuracy)}", markup=False
        )

    def finished(self, outcome: Outcome) -> None:
        """Print the result of a job."""
        self._done += 1
        if self._bars is not None:
            self._bars.advance(self._bars.task_ids[0])
        job = outcome.job
        line = f"{self._done:>{len(str(self._jobs))}}/{self._jobs}  {job.strategy}"
        line += f" at {100 * job.amount:g} %, seed {job.seed}: "
        if outcome.failure or outcome.before is None or outcome.accuracy is None:
            line += f"failed: {outcome.failure}"
        else:
            text = self._metric.text
            line += f"{text(outcome.before)} -> {text(outcome.accuracy)}"
        self._out.print(line, markup=False)
