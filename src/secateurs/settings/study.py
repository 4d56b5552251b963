"""Settings of a whole study: its task, its training, its rounds, its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, model_validator

from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.settings.base import Code, Count, Document, Settings
from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training


def parse_budget(source: str) -> Budget:
    """Read ``"macs=0.5,size_mb=15"``: each unit once, each number finite.

    Raises:
        BudgetError: the text is not a budget.
    """
    if not source.isprintable():
        raise BudgetError(f"expected such as 'macs=0.5,size_mb=15'; received {source!r}")
    pairs = [[piece.strip() for piece in part.split("=", 1)] for part in source.split(",")]
    names = [pair[0] for pair in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BudgetError(f"expected each unit once; received {twice[0]} twice, in {source!r}")
    for name, *value in pairs:
        with suppress(ValueError):  # values that are not numbers are reported by Budget
            if value and not math.isfinite(float(value[0])):
                raise BudgetError(f"{name}: expected a finite number; received {value[0]!r}")
    return Budget.parse(source)


def _as_budget(value: Any) -> Any:
    if isinstance(value, str):
        return parse_budget(value)
    return Budget.of(value) if isinstance(value, Mapping) else value


class Stop(Settings):
    """When a study ends; whichever comes first.

    Attributes:
        rounds: Maximum number of pruning rounds.
        tolerance: Largest accepted loss of validation accuracy relative to the dense model, as a
            fraction (0.005 is half a point); for another metric, in units of that metric. In
            Python, None accepts any loss.
        budget: Budget that ends the study when the model meets it: channels, params, macs, size_mb
            or peak_memory_mb, each a fraction of the dense model or absolute, such as
            "macs=0.3,size_mb=2"; or a time, such as "latency=0.5,runtime=onnxruntime,threads=1". A
            drop, such as "drop=0.01", sets the tolerance; alone, it asks for the smallest model
            within it.
        patience: Number of consecutive rounds outside the tolerance after which the study ends.
    """

    rounds: Annotated[int, Field(ge=0)] | None = None
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = 0.005
    budget: (
        Annotated[
            InstanceOf[Budget],
            BeforeValidator(_as_budget),
            PlainSerializer(lambda budget: budget.as_plain),
        ]
        | None
    ) = None
    patience: Count = 1

    def list_tighter(self, earlier: Stop) -> list[str]:
        """List settings that end a study before ``earlier`` does, as 'rounds: 3, not 5'."""
        found = []
        for name in ("rounds", "tolerance", "patience"):
            mine, theirs = getattr(self, name), getattr(earlier, name)
            if mine is not None and (theirs is None or mine < theirs):
                found.append(f"{name}: {mine}, not {theirs}")
        return found

    @model_validator(mode="after")
    def _take_drop_for_tolerance(self) -> Stop:
        """Use a budget's drop as the tolerance, since they mean the same."""
        drop = None if self.budget is None else self.budget.drop
        if drop is None:
            return self
        usual = type(self).model_fields["tolerance"].default
        if self.tolerance not in (drop, usual):
            raise ValueError(
                f"tolerance: expected the budget's drop={drop} or none beside it; received "
                f"{self.tolerance}. Leave one of them out"
            )
        object.__setattr__(self, "tolerance", float(drop))
        return self


class Task(Settings):
    """The model to prune, and its data.

    Attributes:
        model: name of the model, as ``secateurs.models.build`` takes it, or of its class; ""
            until it is described.
        model_options: options of ``build``.
        data: name of the data, as ``secateurs.data.load`` takes it, or a description.
        data_options: options of ``load``.
        weights: file from which the model's weights are read.
        learning: name of a built-in task; None for image classification.
        metric: name of the metric by which models are chosen; None for the task's own.
        by_name: whether model and data can be rebuilt from these names and options alone.
    """

    model: str = ""
    model_options: dict[str, Any] = Field(default_factory=dict)
    data: str = ""
    data_options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    learning: str | None = None
    metric: str | None = None
    by_name: bool = False


class Configuration(Document):
    """Configuration of a study, as stored in its ``config.json``.

    Attributes:
        format: identifies the file.
        version: version of the format.
        task: the model to prune, and its data.
        training: how to train.
        pruning: what each round removes.
        stop: when the study ends.
        command: the command line that started it, if one did.
        code: the user's own functions that it runs, with their files' checksums at the start.
    """

    format: Literal["secateurs-study"] = "secateurs-study"
    version: Literal[1] = 1
    task: Task = Task()
    training: Training = Training()
    pruning: Pruning = Pruning()
    stop: Stop = Stop()
    command: tuple[str, ...] = ()
    code: Code = Field(default_factory=dict)
