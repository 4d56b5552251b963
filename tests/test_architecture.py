"""The rules of the house, read off the imports."""

import ast
from pathlib import Path

import pytest

import secateurs

HOUSE = Path(secateurs.__file__).parent
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "accelerate", "torchvision", "timm"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    "place",
    [
        "api.py",
        "backends.py",
        "calibration",
        "channels",
        "comparison",
        "criteria",
        "data",
        "errors.py",
        "files.py",
        "formatting.py",
        "measurement",
        "planning",
        "report",
        "settings",
        "study",
        "training",
    ],
)
def test_the_core_knows_no_framework(place):
    files = sorted((HOUSE / place).rglob("*.py")) if (HOUSE / place).is_dir() else [HOUSE / place]
    for path in files:
        if path.name == "building.py":  # builds the model that a task names, of either framework
            continue
        found = {name.partition(".")[0] for name in imports(path)} & FRAMEWORKS
        inside = [
            n for n in imports(path) if n.startswith(("secateurs.pytorch", "secateurs.keras"))
        ]
        assert not found, path
        assert not inside, path


def test_the_two_frameworks_never_meet():
    for one, other in (("pytorch", "keras"), ("keras", "pytorch")):
        for path in (HOUSE / one).rglob("*.py"):
            assert not [n for n in imports(path) if n.startswith(f"secateurs.{other}")], path


def _lines_of_docstring(node):
    """Of a public function every argument is named and told of; that is not what is complex."""
    first = node.body[0]
    told = ast.get_docstring(node) is not None
    return first.end_lineno - first.lineno + 1 if told else 0


def test_nothing_at_the_heart_is_over_sixty_lines():
    long = [
        f"{path.name}:{node.name}"
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno - _lines_of_docstring(node) > 60
    ]
    assert long == []
