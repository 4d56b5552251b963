"""Users' functions by name: ``package.module:function``, called with the options they take."""

from __future__ import annotations

import inspect
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from secateurs.errors import SecateursError, UnknownNameError, describe_raised, nearest

_SUFFIX = ".py"


def call_factory(
    name: str,
    options: Mapping[str, Any],
    hints: Mapping[str, Any],
    failure: type[SecateursError],
) -> Any:
    """Call the function ``package.module:function`` and return its result.

    The working directory is importable while it runs.

    Args:
        name: ``package.module:function``.
        options: Options that the user gave; the function must take all of them.
        hints: Known facts; passed if the function has a parameter of that name.
        failure: Error class for options that do not fit.

    Raises:
        UnknownNameError: no such module, or no such function in it.
        SecateursError: of class ``failure``, if the function raises.
    """
    with _working_directory_importable():
        factory = find_factory(name)
        arguments = fitting(name, factory, options, hints, failure)
        try:
            return factory(**arguments)
        except (SecateursError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise failure(f"{name}: its code raised {describe_raised(error)}") from error


def function_named(name: str) -> Callable[..., Any]:
    """``find_factory`` with the working directory importable."""
    with _working_directory_importable():
        return find_factory(name)


def find_factory(name: str) -> Callable[..., Any]:
    """Find the function that ``package.module:function`` or ``path/to/file.py:function`` names.

    The name of a file's only function may be omitted: ``path/to/file.py``.

    Raises:
        UnknownNameError: no such module or file, no such function in it, or it cannot be imported.
    """
    module_name, attribute = _parts_of(name)
    try:
        module = _import(name, module_name)
    except SecateursError:
        raise
    # A script without a main guard parses its own command line, and exits.
    except (Exception, SystemExit) as error:
        raise UnknownNameError(
            f"{name!r}: expected what can be imported; it raised {describe_raised(error)}"
        ) from error
    known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    if not attribute:
        inside = [key for key in known if vars(module)[key].__module__ == module.__name__]
        if len(inside) != 1:
            raise UnknownNameError(
                f"{name!r}: expected FILE:FUNCTION; received a file of {len(inside)} functions"
                + (f": {', '.join(inside)}" if inside else "")
            )
        attribute = inside[0]
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise UnknownNameError(
            f"{name!r}: {module_name!r} has no function {attribute!r}{nearest(attribute, known)}"
        )
    return factory  # type: ignore[no-any-return]


def names_a_function(name: str) -> bool:
    """Whether a name has the form of a function's: ``module:function``, or a Python file."""
    return ":" in name or name.endswith(_SUFFIX)


def _parts_of(name: str) -> tuple[str, str]:
    """(module or file, function or '')."""
    if name.endswith(_SUFFIX):
        return name, ""
    before, _, after = name.rpartition(":") if f"{_SUFFIX}:" in name else name.partition(":")
    return before, after


def _import(name: str, module_name: str) -> ModuleType:
    if module_name.endswith(_SUFFIX):
        return _import_file(name, Path(module_name))
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise UnknownNameError(
                f"{name!r}: expected a module that can be imported; {module_name!r} is neither "
                f"installed nor a file in {os.getcwd()}"
            ) from error
        raise UnknownNameError(
            f"{name!r}: {module_name!r} imports {missing!r}, which is not installed; "
            f"pip install {missing.partition('.')[0]}"
        ) from error
    except (ValueError, TypeError) as error:  # '', '.module'
        raise UnknownNameError(f"{name!r}: expected package.module:function") from error


def _import_file(name: str, path: Path) -> ModuleType:
    """Import a file as a module, once for each path."""
    place = path.resolve()
    if not place.is_file():
        raise UnknownNameError(f"{name!r}: no such file; received {str(path)!r}")
    known_as = f"secateurs_file_{zlib.crc32(str(place).encode()):08x}_{place.stem}"
    if known_as in sys.modules:
        return sys.modules[known_as]
    spec = spec_from_file_location(known_as, place)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"{name!r}: expected a Python file; received {str(path)!r}")
    module = module_from_spec(spec)
    sys.modules[known_as] = module  # as an import does, so that its contents can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    return module


def locate_code(name: str) -> list[Path]:
    """Files that importing the function ``package.module:function`` would run first.

    They are found without importing the module or any package that contains it.

    Returns:
        Files of the module and of the packages that contain it; empty if there is no such module,
        or it is built into Python.
    """
    module_name, _ = _parts_of(name)
    if module_name.endswith(_SUFFIX):
        return [Path(module_name).resolve()] if Path(module_name).is_file() else []
    parts = module_name.split(".")
    found: list[Path] = []
    with _working_directory_importable():
        try:
            spec = find_spec(parts[0])
        except (ValueError, ImportError):  # '', or a module without a spec
            return []
        for number in range(1, len(parts) + 1):
            if spec is None:
                return []
            if spec.origin and os.path.isfile(spec.origin):
                found.append(Path(spec.origin).resolve())
            if number < len(parts):
                places = spec.submodule_search_locations
                spec = PathFinder.find_spec(".".join(parts[: number + 1]), places or ())
    return found


def fitting(
    name: str,
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    hints: Mapping[str, Any],
    failure: type[SecateursError],
) -> dict[str, Any]:
    """Keyword arguments for ``factory``: all options, and the hints that it takes.

    Raises:
        SecateursError: of class ``failure``, if an option is not taken, or a required argument is
            missing.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # built-in classes have no signature
        return dict(options)
    parameters = signature.parameters
    arguments = {key: value for key, value in hints.items() if key in parameters} | dict(options)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        taken = ", ".join(parameters) or "none"
        raise failure(
            f"{name}: {error}; options received: {', '.join(arguments) or 'none'}; "
            f"options it takes: {taken}"
        ) from error
    return arguments


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    # A script's own directory is on the path, but an installed command's working directory is not.
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
