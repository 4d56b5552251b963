"""Public names are declared, and importing the package imports no framework."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import secateurs as sec


def test_every_public_name_is_declared_and_nothing_else():
    public = {
        name for name in dir(sec) if not name.startswith("_") and not _is_module(getattr(sec, name))
    }
    assert public == set(sec.__all__)


def test_editors_see_what_is_imported_when_it_is_asked_for():
    """Each name twice: for type checkers, and for Python; from the same place."""
    tree = ast.parse(Path(sec.__file__).read_text())
    documented = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("secateurs.")
        for alias in node.names
    }
    assert set(documented) == set(sec.__all__)
    for name, module in documented.items():
        assert getattr(sec, name) is getattr(importlib.import_module(module), name)


def test_it_is_imported_without_what_takes_time():
    code = (
        "import sys, time; start = time.process_time(); import secateurs; "
        "print(time.process_time() - start); "
        "print([m for m in ('numpy', 'scipy', 'pydantic', 'rich', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    seconds, imported = result.stdout.splitlines()
    assert float(seconds) < 0.3
    assert imported == "[]"


def test_every_package_declares_what_it_exports():
    for info in pkgutil.walk_packages(sec.__path__, "secateurs."):
        if not info.ispkg or info.name.startswith("secateurs.keras"):
            continue
        package = importlib.import_module(info.name)
        exported = {
            name
            for name, value in vars(package).items()
            if not name.startswith("_")
            and not _is_module(value)
            and getattr(value, "__module__", "").startswith("secateurs")
            and getattr(value, "__module__", "") != info.name
        }
        assert exported <= set(getattr(package, "__all__", ())), info.name


def test_importing_it_imports_no_framework():
    code = (
        "import sys, secateurs; "
        "print([m for m in ('torch', 'keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _is_module(value):
    return type(value) is type(sys)
