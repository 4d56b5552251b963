"""Options of commands: generated from settings, or shared between commands."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from secateurs.cli.vocabulary import HELP, VALUES
from secateurs.errors import ModelError, SecateursError
from secateurs.settings.base import Settings

_HIDDEN = ("width", "stem")
"""Options of MODEL alone, for which -o width=16 is the general form; not shown in help pages."""

PlainType = type[int] | type[float] | type[bool] | type[str] | type[list[str]]

_VALUE_OF_TYPE: Mapping[Any, str] = types.MappingProxyType(
    {int: "N", float: "NUMBER", str: "TEXT", list[str]: "TEXT", bool: ""}
)
"""What a help page calls the value of an option of this type."""

ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help=HELP["model"]),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help=HELP["weights"]),
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of the model's input: images x channels x height x width, or as a Keras model "
        "takes them. With one image, MACs are per image. Default: 1x3x224x224, or the Keras "
        "model's own.",
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help=HELP["option"],
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of outputs (classes) of the model; default: its own."),
]

RuntimeName = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help=HELP["runtime"],
    ),
]
BatchSize = Annotated[int | None, typer.Option("--batch", metavar="N", help=HELP["batch"])]
Threads = Annotated[int, typer.Option("--threads", metavar="N", help=HELP["threads"])]
Normalise = Annotated[str | None, typer.Option(metavar="HOW", help=HELP["normalise"])]
SizeOption = Annotated[int | None, typer.Option(metavar="PIXELS", help=HELP["size"])]
Crop = Annotated[float | None, typer.Option(metavar="SHARE", help=HELP["crop"])]
ImagesOption = Annotated[int, typer.Option(metavar="N", help=HELP["images"])]
CriterionName = Annotated[
    str | None, typer.Option("--criterion", metavar="NAME", help=HELP["criterion"])
]
Amounts = Annotated[
    list[str] | None, typer.Option("--amounts", metavar="A,B,...", help=HELP["amounts"])
]
TokenizerOf = Annotated[
    str | None, typer.Option("--tokenizer", metavar="DIR", help=HELP["tokenizer"])
]
TaskName = Annotated[str | None, typer.Option("--task", metavar="NAME", help=HELP["task"])]
TaskMetric = Annotated[str | None, typer.Option("--metric", metavar="NAME", help=HELP["metric"])]
Distil = Annotated[str | None, typer.Option(metavar="STEPS|SECONDS", help=HELP["distil"])]
Directory = Annotated[Path, typer.Option("--directory", metavar="DIR", help=HELP["directory"])]
OutputFile = Annotated[Path | None, typer.Option("--output", metavar="FILE", help=HELP["output"])]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=HELP["overwrite"])]
Int8 = Annotated[bool, typer.Option("--int8", help=HELP["int8"])]
Fresh = Annotated[bool, typer.Option("--fresh", help=HELP["fresh"])]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="Device: cpu or cuda.")]


def options_of(
    settings: type[Settings],
    panel: str,
    names: Mapping[str, str] = types.MappingProxyType({}),
    only: Collection[str] | None = None,
) -> Iterator[inspect.Parameter]:
    """An option for each setting, with the help that the settings' own docstring gives.

    Args:
        settings: Class of the settings.
        panel: Heading in the help.
        names: Names of options that differ from their setting's.
        only: Names of the settings to make options of; None is all.
    """
    descriptions = attribute_docs(settings)
    for name, field in settings.model_fields.items():
        if only is not None and name not in only:
            continue
        kind = plain_type(field.annotation)
        known_as = names.get(name, name)
        help_text = HELP.get(known_as, descriptions[name])
        if field.default is True:
            known_as = f"no_{known_as}"
            help_text = f"Do not {help_text[0].lower()}{help_text[1:]}"
        elif field.default not in (None, False, ()):
            shown = (
                ",".join(map(str, field.default))
                if isinstance(field.default, tuple)
                else field.default
            )
            help_text = f"{help_text} [dim]\\[default: {shown}][/dim]"
        can_be_denied = kind is bool and field.default is None
        flags = f"{known_as}/--no-{known_as}" if can_be_denied else known_as
        yield option(known_as, kind, help_text, panel, choices_of(field.annotation), flags)


def option(
    name: str,
    kind: PlainType,
    help_text: str,
    panel: str,
    choices: Sequence[str] = (),
    flags: str | None = None,
    *,
    hidden: bool = False,
) -> inspect.Parameter:
    """An option that is None where it is not given."""
    dashed = (flags or name).replace("_", "-")
    default = typer.Option(
        *((f"--{dashed}", "-o") if name == "option" else (f"--{dashed}",)),
        hidden=hidden,
        help=help_text,
        rich_help_panel=panel,
        metavar="|".join(choices) or VALUES.get(name, _VALUE_OF_TYPE[kind]),
        show_default=False,
    )
    annotation = Annotated[kind | None, default]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def options_in(table: Iterable[tuple[str, Any, str, str]]) -> list[inspect.Parameter]:
    """Options from a table of (name, type, panel, help); MODEL becomes an argument."""
    return [
        _model_argument(panel)
        if name == "model"
        else option(name, kind, text, panel, hidden=name in _HIDDEN)
        for name, kind, panel, text in table
    ]


def _model_argument(panel: str) -> inspect.Parameter:
    default = typer.Argument(
        metavar="MODEL", help=HELP["model"], rich_help_panel=panel, show_default=False
    )
    return inspect.Parameter(
        "model",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, default],
    )


def list_fixed_options(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Parameters of a command other than its ``**options``, which come last."""
    return list(inspect.signature(function, eval_str=True).parameters.values())[:-1]


def with_options(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """The function, with these parameters in place of its ``**options``."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function


def attribute_docs(settings: type[Settings]) -> dict[str, str]:
    """Descriptions of the attributes in a class's docstring, by name."""
    text = inspect.getdoc(settings) or ""
    section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    descriptions: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        begins = re.match(r"    (\w+): (.*)", line)
        if begins:
            name = begins[1]
        descriptions.setdefault(name, []).append(begins[2] if begins else line.strip())
    return {name: " ".join(lines).replace("``", "") for name, lines in descriptions.items()}


def plain_type(annotation: Any) -> PlainType:
    """Type of a setting on the command line: a number, a flag, a text, or several texts."""
    if annotation in (int, float, bool, str):
        plain: PlainType = annotation
        return plain
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return plain_type(inner[0])
    if origin in (Union, types.UnionType):
        return plain_type(next(one for one in inner if one is not type(None)))
    return list[str] if origin is tuple else str


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Choices of a setting that takes one of a few texts; otherwise none."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for inner in get_args(annotation) for choice in choices_of(inner))


def shares_from(given: Sequence[str] | None, option_name: str) -> tuple[float, ...] | None:
    """('0.25,0.5', '0.75') -> (0.25, 0.5, 0.75); None of None.

    Raises:
        SecateursError: a part is not a number.
    """
    if given is None:
        return None
    try:
        return tuple(float(part) for one in given for part in one.split(",") if part.strip())
    except ValueError as error:
        raise SecateursError(
            f"{option_name}: expected shares separated by commas, such as 0.25,0.5; received "
            f"{','.join(given)!r}"
        ) from error


def shape_from(source: str) -> tuple[int, ...]:
    """'1x3x224x224' -> (1, 3, 224, 224).

    Raises:
        ModelError: the text is not a shape.
    """
    # Stripped here: int() does not take all that strip() does, such as separators ("\x1c").
    parts = [part.strip() for part in source.lower().replace(",", "x").split("x")]
    if not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts) or len(parts) < 2:
        raise ModelError(f"--input: expected a shape such as 1x3x224x224; received {source!r}")
    return tuple(int(part) for part in parts)


def pairs_from(given: Sequence[str], option_name: str) -> dict[str, Any]:
    """('width=16', 'stem=small') -> {'width': 16, 'stem': 'small'}; values are JSON or text.

    Raises:
        SecateursError: an item is not a pair.
    """
    pairs: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise SecateursError(f"{option_name}: expected NAME=VALUE; received {item!r}")
        try:
            pairs[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except (ValueError, RecursionError):
            pairs[name] = value
    return pairs
