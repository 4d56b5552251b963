"""``secateurs run``: a whole study."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from secateurs.backends import backend_of
from secateurs.cli.launch import start_missing_processes
from secateurs.cli.models import naming_the_nearest, stem_of_weights
from secateurs.cli.options import options_in, options_of, with_options
from secateurs.cli.presets import PRESETS, preset
from secateurs.cli.show import Doubting, console, rounds_table, waiting
from secateurs.cli.signals import is_main_process
from secateurs.cli.tasks import TASK_OPTIONS, WHAT, command_line, doubts_of, task_from
from secateurs.cli.trust import check_code, note_code, refuse_trust
from secateurs.cli.vocabulary import HELP
from secateurs.data.sets import Split
from secateurs.errors import SecateursError, StudyError
from secateurs.formatting import percent
from secateurs.settings.base import Settings
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration, Stop
from secateurs.settings.training import Training
from secateurs.study.building import build_task
from secateurs.study.directory import Study
from secateurs.study.disk_store import CONFIGURATION, read_position
from secateurs.study.history import History
from secateurs.study.lock import check_free
from secateurs.study.run import Iterated, run_study
from secateurs.study.sources import Sources
from secateurs.training.metric import Metric

Chosen = TypeVar("Chosen", bound=Settings)

# Options of the command that are not settings of the study: name, type, panel, help.
_WHERE = "Output and control"
_OWN_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    ("preset", str, WHAT, f"Predefined study: {', '.join(PRESETS)}. Other options override it."),
    *TASK_OPTIONS,
    ("directory", str, _WHERE, HELP["directory"]),
    ("resume", str, _WHERE, HELP["resume"]),
    ("trust", bool, _WHERE, HELP["trust"]),
    ("fresh", bool, _WHERE, HELP["fresh"]),
    (
        "track",
        list[str],
        _WHERE,
        "Experiment tracker to log to: tensorboard (in the directory's tracking/), wandb, mlflow, "
        "...; may be repeated.",
    ),
    ("quiet", bool, _WHERE, HELP["quiet"]),
)
_OTHER_NAMES = {"batches": "train_batches", "precision": "train_precision"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    rounds = options_of(Pruning, "Each round")
    stop = options_of(Stop, "When to stop")
    training = options_of(Training, "Training", _OTHER_NAMES)
    app.command("run")(
        with_options(run_command, [*options_in(_OWN_OPTIONS), *rounds, *stop, *training])
    )


def run_command(**options: Any) -> None:
    """Train a model, then prune and fine-tune it in rounds until accuracy no longer recovers.

    Each round removes --step of the channels that remain, proves the cut, and fine-tunes. The
    result is the smallest model whose validation accuracy is within --tolerance of the dense one's.
    A report is written at the end.

    Try:

      secateurs run --preset demo --directory runs/demo

      secateurs run resnet18 --data vehicles --train-batches 4000 --fine-tune-batches 800

      secateurs run resnet50 --weights mine.pt --data folder:photos --budget macs=0.3

      secateurs run --resume runs/demo

      secateurs run --resume runs/demo --rounds 30     (continues a study that has ended)

      accelerate launch -m secateurs run --preset demo     (several processes or GPUs)
    """
    given = {name: value for name, value in options.items() if value not in (None, [])}
    quiet = bool(given.pop("quiet", False))
    track = given.pop("track", [])
    if "resume" in given:
        directory, configuration = _resume(given)
        fresh = False
    else:
        configuration, directory = _configure(given)
        fresh = bool(given.get("fresh", False))
    check_free(directory)
    status = start_missing_processes(sys.argv[1:])
    if status is not None:
        raise typer.Exit(status)
    try:
        result = run_configuration(configuration, directory, fresh=fresh, quiet=quiet, track=track)
    except KeyboardInterrupt:
        _say_how_to_go_on(directory)
        raise
    if result is not None:
        _tell(result)


def _resume(given: Mapping[str, Any]) -> tuple[Path, Configuration]:
    allowed = {"resume", "trust", *Stop.model_fields}
    others = [f"--{name.replace('_', '-')}" for name in given if name not in allowed]
    if others:
        raise SecateursError(
            f"--resume continues a study with its own settings, except for when it stops; received "
            f"{', '.join(others)} too. Leave that out, or begin another study."
        )
    study = Study.open(given["resume"])
    if not study.configuration.task.by_name:
        raise StudyError(
            f"{study.directory}: the study was begun from Python, with a model and data that the "
            "command line cannot build. Continue it with the same call of secateurs.iterate(..., "
            f"directory={str(study.directory)!r})"
        )
    trust = bool(given.get("trust", False))
    check_code(study.configuration, study.directory, "run", trust=trust)
    return study.directory, _extend(study.configuration, given)


def _extend(configuration: Configuration, given: Mapping[str, Any]) -> Configuration:
    """Return the configuration with the stopping conditions of the options."""
    asked = {name: value for name, value in given.items() if name in Stop.model_fields}
    if not asked:
        return configuration
    known = configuration.stop.model_dump(mode="json")
    if "budget" in asked and "tolerance" not in asked:
        known.pop("tolerance")  # it may have come from the drop of the earlier budget
    words = command_line("run", asked)[2:]
    changes = {"stop": Stop(**{**known, **asked}), "command": (*configuration.command, *words)}
    return configuration.model_copy(update=changes)


def _configure(given: Mapping[str, Any]) -> tuple[Configuration, Path]:
    """Build the configuration from the options, over the preset's."""
    refuse_trust(given)
    chosen = preset(given["preset"]) if "preset" in given else {}
    values = chosen | {name: value for name, value in given.items() if name != "preset"}
    training = _settings(Training, values)
    values = stem_of_weights(str(values.get("model")), values.get("weights")) | values
    configuration = Configuration(
        task=task_from(values, training.seed, "secateurs run --preset demo"),
        training=training,
        pruning=_settings(Pruning, values),
        stop=_settings(Stop, values),
        command=command_line("run", given),
    )
    name = given.get("preset") or f"{values['model']}-{values['data']}"
    default = Path("runs") / re.sub("[^A-Za-z0-9_.]+", "-", name)
    return note_code(configuration), Path(values.get("directory", default))


def _settings(kind: type[Chosen], values: Mapping[str, Any]) -> Chosen:
    names = {field: _OTHER_NAMES.get(field, field) for field in kind.model_fields}
    found = {field: values[name] for field, name in names.items() if name in values}
    found |= {field: False for field in names if values.get(f"no_{field}")}
    return kind(**found)


def run_configuration(
    configuration: Configuration,
    directory: Path,
    *,
    fresh: bool,
    quiet: bool,
    track: Sequence[str],
) -> Iterated:
    """Build the model and data, run the study, and print a table of its rounds."""
    with waiting("loading the data and the model"):
        task = configuration.task
        with naming_the_nearest(task.model, task.weights):
            model, sources = build_task(task, configuration.training.seed)
        # A Keras model is trained as it was compiled.
        training = backend_of(model).default_training(model, configuration.training)
        configuration = configuration.model_copy(update={"training": training})
        found = _doubts(model, sources, configuration)
    with rounds_table(quiet=quiet) as table:
        watcher = Doubting(table, found)
        return run_study(
            model,
            sources,
            configuration,
            directory=directory,
            fresh=fresh,
            watcher=watcher,
            track=track,
        )


def _say_how_to_go_on(directory: Path) -> None:
    if not (is_main_process() and (directory / CONFIGURATION).exists()):
        return
    kept = "nothing saved yet"
    if (position := read_position(directory)) is not None:
        kept = f"saved up to batch {position.batch}, round {position.round}"
    line = f"\n{kept}; continue with: secateurs run --resume {shlex.quote(str(directory))}"
    console(stderr=True).print(line, markup=False)


def _doubts(model: Any, sources: Sources, configuration: Configuration) -> tuple[str, ...]:
    from secateurs import api

    if not isinstance(sources.validation, Split) or not len(sources.validation):
        return ()  # the study reports missing data itself; other data cannot be checked
    if configuration.task.learning not in (None, "classification"):
        return ()
    task, first = configuration.task, sources.validation.batch([0])[0]
    values = {"model": task.model} | ({"weights": task.weights} if task.weights else {})
    return doubts_of(
        api.trace(model, first),
        sources.validation,
        values,
        task,
        tolerance=configuration.stop.tolerance,
        will_be_trained=configuration.training.batches > 0,
    )


def _tell(result: Iterated) -> None:
    from secateurs.report.summary import summarise

    stop = result.history.ending
    if stop is None or not is_main_process():
        return
    out = console()
    found = stop["best_round"]
    lines = ["", f"Ended: {stop['reason']}."]
    if found:
        metric = Metric.of(result.history.last("dense"))
        was, now = stop[f"dense_{metric.key}"], stop[metric.key]
        lines.append(
            f"Kept: round {found}, {percent(result.report.params_removed)} of the parameters "
            f"removed; validation {metric.name} {metric.text(was)} -> {metric.text(now)} "
            f"({_in_ascii(metric.change(now, was))})" + _format_test(stop, metric)
        )
        lines.append(f"Took: {summarise(result.history).effort_text}.")
    else:
        lines.append("Kept: the dense model; no round came within the tolerance.")
        lines += describe_nearest(result.history)
    if result.directory is not None:
        lines.append(f"Model: {Study.open(result.directory).best}")
        lines.append(f"Report: {result.directory / 'report' / 'report.html'}")
    out.print("\n".join(lines), markup=False)


def describe_nearest(history: History) -> list[str]:
    """Describe the round that lost least, and what to try; nothing without rounds."""
    from secateurs.report.summary import summarise

    summary = summarise(history)
    metric, dense = summary.metric, summary.dense_accuracy
    known = [(one, one.accuracy) for one in summary.rounds if one.accuracy is not None]
    if not known or dense is None:
        return []
    best, value = max(known, key=lambda pair: metric.score(pair[1]))
    missed = metric.score(dense) - metric.score(value)
    removed = percent(summary.shares_removed()[best.number])
    change = _in_ascii(metric.change(value, dense))
    return [
        f"Nearest: round {best.number}, {removed} of the parameters removed, validation "
        f"{metric.name} {metric.text(value)} ({change}).",
        f"Try: more --fine-tune-batches, a smaller --step, --distillation 0.5, or --tolerance "
        f"{math.ceil(1e4 * missed - 1e-6) / 1e4:g}.",
    ]


def _in_ascii(change: str) -> str:
    """Replace characters that a terminal or a parser of the output may not handle."""
    return change.replace("\N{MINUS SIGN}", "-").replace("\N{PLUS-MINUS SIGN}", "+")


def _format_test(stop: Mapping[str, Any], metric: Metric) -> str:
    was, now = stop[f"dense_test_{metric.key}"], stop[f"test_{metric.key}"]
    if now is None:
        return "."
    return f", test {metric.name} {metric.text(was)} -> {metric.text(now)}."
