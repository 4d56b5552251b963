"""What a whole study is told: its task, its training, its rounds, its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer

from secateurs.planning.planner import Budget
from secateurs.settings.base import Count, Document, Settings
from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training


def _as_budget(value: Any) -> Any:
    if isinstance(value, str):
        return Budget.parse(value)
    return Budget(**value) if isinstance(value, Mapping) else value


class Stop(Settings):
    """When a study ends; whichever comes first.

    Attributes:
        rounds: After that many.
        tolerance: When validation accuracy stays further below the dense model's than this share
            (0.005 is half a point). In Python, None goes on however much is lost.
        budget: When the model fits it: channels, params, macs, size_mb, each a fraction of the
            dense model or absolute, such as "macs=0.3,size_mb=2".
        patience: Rounds in a row that may miss the tolerance before that ends the study.
    """

    rounds: Annotated[int, Field(ge=0)] | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = 0.005
    budget: (
        Annotated[
            InstanceOf[Budget],
            BeforeValidator(_as_budget),
            PlainSerializer(lambda budget: budget.limits),
        ]
        | None
    ) = None
    patience: Count = 1


class Task(Settings):
    """What is pruned, and on what data.

    Attributes:
        model: its name, as ``secateurs.models.build`` takes it, or its class's.
        model_options: as ``build`` takes them.
        data: its name, as ``secateurs.data.load`` takes it, or what it is.
        data_options: as ``load`` takes them.
        weights: a file the model's weights are read from.
        by_name: whether the names say all that is needed to build both again.
    """

    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    data: str
    data_options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    by_name: bool = False


class Configuration(Document):
    """All a study is told, as its ``config.json`` holds it.

    Attributes:
        format: says what the file is.
        version: of the format.
        task: what is pruned, on what data.
        training: how to train.
        pruning: what each round removes.
        stop: when it ends.
        command: the command line that began it, if one did.
    """

    format: Literal["secateurs-study"] = "secateurs-study"
    version: Literal[1] = 1
    task: Task
    training: Training = Training()
    pruning: Pruning = Pruning()
    stop: Stop = Stop()
    command: tuple[str, ...] = ()
