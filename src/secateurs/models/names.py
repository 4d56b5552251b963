"""Models by name: built-in ones, torchvision's, timm's, and users' functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateurs.arguments import Kind, format_value, takes
from secateurs.errors import ModelError, UnknownNameError, nearest
from secateurs.models.directories import load_directory
from secateurs.models.factories import call_factory, names_a_function
from secateurs.models.keras_files import is_keras_file, open_keras_file

OURS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vanilla_cnn")
_NAME = Kind("a model's name", lambda value: isinstance(value, str), UnknownNameError)
DIRECTORY_SOURCES = ("transformers", "hf")
DATA_SAYS = ("classes", "in_channels", "size")
_WEIGHTS_OPTIONS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")

# Facts about the data that models are given. ResNets take images of any size, so need no size.
_ALWAYS_TAKEN = ("classes", "in_channels")
_TORCHVISION_CHANNELS = 3


@takes(name=_NAME)
def build(name: str, **options: Any) -> Any:
    """Build a new model, with random weights unless a file holds them; without downloads.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``,
            ``vanilla_cnn``, ``torchvision:NAME``, ``timm:NAME``, ``transformers:DIRECTORY`` (or
            ``hf:DIRECTORY``, which ``save_pretrained`` wrote), a ``.keras`` file, or
            ``package.module:function`` (the working directory is importable).
        **options: ``classes``, ``in_channels``, ``size`` (pixels) describe the data: a model that
            does not use the size is not given it, and your own function is given only those that
            it has parameters for. Everything else (``width``, ``stem``, ``drop_rate``, ...) must
            be an option of the model.

    Returns:
        The model.

    Raises:
        UnknownNameError: no such model; the message says the nearest name, or what to install.
        ModelError: the model does not take an option, or its file cannot be loaded.
    """
    _refuse_weights(name, options)
    if is_keras_file(name):
        return open_keras_file(name, _separate(options, DATA_SAYS)[0])
    if name in OURS:
        return _build_ours(name, options)
    source, colon, rest = name.partition(":")
    if source in DIRECTORY_SOURCES and colon:
        return load_directory(Path(rest), _separate(options, DATA_SAYS)[0])
    if source == "torchvision" and colon:
        return _build_torchvision(rest, options)
    if source == "timm" and colon:
        return _build_timm(rest, options)
    if names_a_function(name):
        wished, hints = _separate(options, ("classes", "in_channels", "size"))
        return call_factory(name, wished, hints, ModelError)
    raise UnknownNameError(
        f"no model {name!r}{nearest(name, OURS)}; others: torchvision:NAME, timm:NAME, "
        "package.module:function, FILE.py:FUNCTION"
    )


def is_our_resnet(name: str) -> bool:
    """Whether this names a built-in ResNet, not a file that is called after one."""
    return name in OURS and name.startswith("resnet")


def _refuse_weights(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that would download or ignore weights: those come from a user's file."""
    for option in _WEIGHTS_OPTIONS:
        if options.get(option):
            raise ModelError(
                f"{name}: expected no option {option!r}; received {format_value(options[option])}. "
                "Models are built with random weights and nothing is downloaded: save the weights "
                "you have to a file, and give it: --weights FILE, or secateurs.load(model, FILE)."
            )


def _separate(
    options: Mapping[str, Any], hints: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    wished = {key: value for key, value in options.items() if key not in hints}
    return wished, {key: value for key, value in options.items() if key in hints}


def _build_ours(name: str, options: Mapping[str, Any]) -> Any:
    try:
        from secateurs.models import cnn, resnet
    except ModuleNotFoundError as error:
        raise _missing(name, error, "secateurs[torch]") from error
    factory: Callable[..., Any] = cnn.vanilla_cnn
    taken = set(inspect.signature(cnn.vanilla_cnn).parameters)
    if is_our_resnet(name):
        factory = functools.partial(resnet.build_resnet, int(name.removeprefix("resnet")))
        taken = set(resnet.ResNetOptions.__annotations__)
    wished, hints = _separate(options, ("size",))
    unknown = [key for key in wished if key not in taken]
    if unknown:
        raise ModelError(
            f"{name}: no option {unknown[0]!r}{nearest(unknown[0], sorted(taken | {'size'}))}"
        )
    try:
        return factory(**wished, **{key: value for key, value in hints.items() if key in taken})
    except (RuntimeError, MemoryError) as error:  # too large for memory
        raise ModelError(f"{name}: cannot be built: {str(error).splitlines()[0]}") from error


def _build_torchvision(name: str, options: Mapping[str, Any]) -> Any:
    models = import_torchvision(name)
    known = models.list_models()
    if name not in known:
        raise UnknownNameError(f"torchvision has no model {name!r}{nearest(name, known)}")
    wished, hints = _separate(options, ("classes", "in_channels", "size"))
    channels = hints.get("in_channels", _TORCHVISION_CHANNELS)
    if channels != _TORCHVISION_CHANNELS:
        raise ModelError(
            f"torchvision:{name}: expected images of 3 channels, as all of torchvision's models "
            f"do; received in_channels={channels}. timm:NAME and our own models take any number."
        )
    builder = models.get_model_builder(name)
    wished["weights"] = None
    if "weights_backbone" in inspect.signature(builder).parameters:
        wished["weights_backbone"] = None  # downloaded unless refused
    if "classes" in hints:
        wished["num_classes"] = hints["classes"]
    return _call_with_size(f"torchvision:{name}", builder, wished, "image_size", hints)


def _build_timm(name: str, options: Mapping[str, Any]) -> Any:
    timm = import_timm(name)
    # Names that timm does not define itself, such as hf-hub:..., would be downloaded.
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    wished, hints = _separate(options, ("classes", "in_channels", "size"))
    for ours, theirs in (("classes", "num_classes"), ("in_channels", "in_chans")):
        if ours in hints:
            wished[theirs] = hints[ours]
    factory = functools.partial(timm.create_model, name, pretrained=False)
    return _call_with_size(f"timm:{name}", factory, wished, "img_size", hints)


def _call_with_size(
    name: str,
    factory: Callable[..., Any],
    wished: dict[str, Any],
    keyword: str,
    hints: Mapping[str, Any],
) -> Any:
    """Call ``factory``, with the image size too if it takes one."""
    sized = {keyword: hints["size"]} if "size" in hints else {}
    try:
        return factory(**wished, **sized)
    except TypeError as error:
        # Factories pass keywords through many calls: only the error tells what is not taken.
        refused = f"unexpected keyword argument {keyword!r}" in str(error)
        if sized and refused:
            return _call_with_size(name, factory, wished, keyword, {})
        if "unexpected keyword argument" in str(error):
            raise ModelError(f"{name}: {error}") from error
        raise
    except (ValueError, AssertionError) as error:  # such as a size not divisible into patches
        given = ", ".join(f"{key}={value}" for key, value in (wished | sized).items())
        raise ModelError(f"{name}: cannot be built with {given}: {error}") from error


def import_torchvision(name: str) -> Any:
    """Import ``torchvision.models``.

    Raises:
        UnknownNameError: torchvision is not installed.
    """
    try:
        return _import_torchvision_models()
    except ModuleNotFoundError as error:
        raise _missing(f"torchvision:{name}", error, "torchvision") from error


def import_timm(name: str) -> Any:
    """Import ``timm``.

    Raises:
        UnknownNameError: timm is not installed.
    """
    try:
        _import_torchvision_models()  # timm imports it
        import timm
    except ModuleNotFoundError as error:
        raise _missing(f"timm:{name}", error, "timm") from error
    return timm


def _import_torchvision_models() -> Any:
    try:
        import torchvision.models
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_compiled_operators()
        import torchvision.models
    return torchvision.models


@functools.cache
def _declare_compiled_operators() -> Any:
    """Declare operators so that torchvision imports beside a PyTorch it was not compiled for.

    PyPI's torchvision is linked against CUDA. Beside a CPU build of PyTorch its operators do not
    load, and importing it fails at the fake implementation of one of them. The models need none of
    them. The declarations last as long as the returned library, hence the cache.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # others may declare some too
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)
    return library


def _missing(name: str, error: ModuleNotFoundError, package: str) -> UnknownNameError:
    needed = package if (error.name or "") in (package, "torch") else error.name
    return UnknownNameError(f"{name}: {error.name!r} is not installed; pip install '{needed}'")
