"""What a study is told: how to train, what to cut, when to stop. Checked, versioned, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
)

from secateurs.arguments import shown
from secateurs.errors import SecateursError, StudyError, nearest
from secateurs.planning.planner import Budget, Scope
from secateurs.training.schedules import Schedule

Rewind = Literal["weights", "learning-rate", "lottery"]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Settings that cannot be changed, and that say in one line what is wrong with them."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SecateursError(_in_one_line(error, list(type(self).model_fields))) from error


class Training(Settings):
    """How to train, dense and between cuts.

    Attributes:
        batches: Batches of training the dense model; 0 takes it as trained.
        fine_tune_batches: Batches of training after each cut; an epoch if left out.
        evaluate_every: Batches between looks at the validation data; an epoch if left out.
        batch_size: Images a batch, of all processes together. A loader has its own.
        optimizer: SGD (with Nesterov momentum), AdamW, or the optimizer and the loss that a Keras
            model was compiled with.
        learning_rate: The highest while the dense model is trained.
        fine_tune_learning_rate: The highest after a cut. If left out, the dense model's, or a
            fifth of it where a round is shorter than an epoch: a large rate recovers more, but
            needs time to settle.
        momentum: Of SGD.
        weight_decay: Of all parameters.
        schedule: Of the learning rate, begun anew after each cut.
        warm_up: Share of the batches in which the learning rate rises.
        label_smoothing: Share of the target that is spread over all classes.
        flip: Mirror training images at random.
        shift: Move training images at random, by up to so many pixels.
        precision: Of the arithmetic; auto is bf16 on CUDA and fp32 elsewhere.
        seed: Of the order of the images, their augmentation, and the lots a criterion draws.

    Source: Renda, Frankle & Carbin, Comparing Rewinding and Fine-tuning, ICLR 2020, and Le & Hua,
    Network Pruning That Matters, ICLR 2021: what recovers accuracy is a large learning rate that
    warms up and falls to zero in every round.
    """

    batches: Annotated[int, Field(ge=0)] = 0
    fine_tune_batches: Count | None = None
    evaluate_every: Count | None = None
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw", "compiled"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0


class Pruning(Settings):
    """What each round removes.

    Attributes:
        step: Share of the channels that remain, removed in each round.
        criterion: What ranks channels; see: secateurs criteria.
        scope: Whether to take the same share from every group, or the lowest scores in the whole
            network. A group too narrow to lose a whole channel to a round is spared until the
            others have come down to it, which is where accuracy is best kept.
        floor: Never leave a group with less: a share of its channels in the dense model, or a
            number of channels if 1 or more.
        multiple: Round the widths that stay to a multiple of this.
        skip: Name of a group or layer to leave alone; * matches anything; may be repeated.
        rewind: Fine-tune as dense training ended, from as many batches before its end: the
            survivors' weights of that time and its learning rates; or the learning rates alone;
            or all of dense training again, from the initial weights (lottery).
        until_recovered: End a round's fine-tuning at its first evaluation within the tolerance.
        calibration_batches: Training batches shown to a criterion that needs data.
        measure_speed: Measure images a second after each round, beside the dense model's.

    Source: Renda, Frankle & Carbin 2020 (rewinding); Frankle & Carbin 2019 (lottery tickets).
    """

    step: Share = 0.05
    criterion: str = "l1"
    scope: Scope = "group"
    floor: Annotated[float, Field(gt=0)] = 0.1
    multiple: Count = 1
    skip: tuple[str, ...] = ()
    rewind: Rewind | None = None
    until_recovered: bool = False
    calibration_batches: Count = 4
    measure_speed: bool = True


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
    model_options: dict[str, Any] = {}
    data: str
    data_options: dict[str, Any] = {}
    weights: str | None = None
    by_name: bool = False


class Document(Settings):
    """Settings that are kept in a file, as JSON that says what it is.

    A subclass has a ``format`` and a ``version``, both with their only value as default.
    """

    def to_json(self) -> str:
        """The settings as JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            StudyError: it cannot be read, is something else, or is of a newer version.
        """
        kind, known = (cls.model_fields[name].default for name in ("format", "version"))
        what = str(kind).removeprefix("secateurs-")
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StudyError(
                f"{path}: cannot be read as a {what}'s configuration: {error}"
            ) from error
        if not isinstance(values, dict) or values.get("format") != kind:
            raise StudyError(
                f"{path}: expected a {what}'s configuration (format {kind!r}); received "
                "something else"
            )
        if values.get("version") != known:
            raise StudyError(
                f"{path}: expected version {known} of a {what}; received version "
                f"{values.get('version')!r}. Go on with the release of secateurs that began it."
            )
        try:
            return cls(**values)
        except SecateursError as error:
            raise StudyError(f"{path}: {error}") from error

    def differences(self, other: Self) -> list[str]:
        """'training.batch_size: 64, not 128' for each setting that differs."""
        mine, theirs = (_flat(one.model_dump(mode="json")) for one in (self, other))
        return [
            f"{name}: {json.dumps(mine.get(name))}, not {json.dumps(theirs.get(name))}"
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name) != theirs.get(name) and name.partition(".")[0] != "command"
        ]


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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _in_one_line(error: ValidationError, known: list[str]) -> str:
    said = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            said.append(f"{name}: no such setting{nearest(name, known)}")
        elif problem["type"] == "missing":
            said.append(f"{name}: expected a value; received none")
        else:
            expected = problem["msg"].replace("Input should be", "expected")
            expected = re.sub("^expected (?=greater|less)", "expected a number ", expected)
            said.append(f"{name}: {expected}; received {shown(problem['input'])}")
    return "; ".join(dict.fromkeys(said))
